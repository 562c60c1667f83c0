"""The families: composition of parts, and nothing else."""
