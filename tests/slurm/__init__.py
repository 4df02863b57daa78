"""The Slurm job on a real Slurm: five nodes, each a network, a host name and mounts of its own."""
