"""The Slurm job: what runs on which node, decided beforehand, and the agent that runs it there."""
