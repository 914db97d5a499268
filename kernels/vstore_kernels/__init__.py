"""Compiled kernels of vstore: arrays in, arrays out. No I/O, no policy, no Python objects."""
