"""What SLURM says of jobs, asked with its own commands, and whose turn it is to submit."""
