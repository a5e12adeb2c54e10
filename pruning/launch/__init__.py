"""Where steps run: worker processes on this machine, or a SLURM cluster (the only importer of submitit)."""
