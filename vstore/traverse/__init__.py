"""Traversal policies: how a shard's candidates are found."""
