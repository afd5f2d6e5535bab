"""What Corral knows of SLURM. A leaf: no Ray, no FastAPI."""
