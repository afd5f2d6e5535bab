"""Fast tests without Ray, GPUs or real models."""
