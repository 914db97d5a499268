"""Run as somebody for whom permissions count, also where the tests run as root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

NOBODY = 65534


@contextlib.contextmanager
def as_somebody() -> Iterator[None]:
    """Drop root's rights, for which no permission counts."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
