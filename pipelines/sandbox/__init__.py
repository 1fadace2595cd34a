"""A tiny world with a known truth, and a tiny model for it. The demo needs nothing else."""
