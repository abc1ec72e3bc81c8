"""The application: what the command `entrosparse` needs and nobody else."""
