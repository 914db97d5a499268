"""The block cache at the boundary between kernels and storage."""
