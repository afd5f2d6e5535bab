"""The service inside a SLURM job: what runs on its nodes."""
