"""The targets that this project is held to, and whether they are met: `python -m torch_rmpi.bench targets --help`."""
