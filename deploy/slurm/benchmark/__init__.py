"""The recipe's sweep, and the parser of its logs. Standard library only, Python 3.8 and newer: users copy it.

Imports between these files are relative: the scripts beside this folder run it as `benchmark`, wherever it
was copied to, and the project's tests as `deploy.slurm.benchmark`.
"""
