"""Benchmarks of torch_rmpi beside other backends, in one run: `python -m torch_rmpi.bench --help`."""
