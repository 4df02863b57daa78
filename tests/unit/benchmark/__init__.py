"""Tests of the package of the same name, `deploy.slurm.benchmark`."""
