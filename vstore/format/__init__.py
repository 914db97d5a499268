"""Bytes to arrays and back. docs/FORMAT.md is the authority."""
