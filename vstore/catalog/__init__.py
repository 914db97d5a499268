"""Manifests and how they are committed."""
