"""Tests of the Slurm job's decisions; tests/slurm runs the job itself on a real Slurm."""
