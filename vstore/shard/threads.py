"""How many threads a step of a build takes."""

from __future__ import annotations

THREADS_FROM = 16_384
"""Rows from which threads help: below, they wait for the interpreter and each other longer than they work."""


def threads_for(n_rows: int, n_threads: int) -> int:
    """Return how many of `n_threads` a step in Python over so many rows takes."""
    return n_threads if n_rows >= THREADS_FROM else 1
