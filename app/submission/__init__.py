"""The service from outside its SLURM job: submitting, following, changing and ending it."""
