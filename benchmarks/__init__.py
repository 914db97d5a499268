"""Benchmarks of vstore against its peers; benchmarks/README.md says how they are run and read."""
