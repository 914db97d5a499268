"""Admission: everything, nothing, or what is asked for a second time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class AdmitAll:
    """Keeps whatever was read."""

    def admits(self, key: Hashable, size_bytes: int, room_bytes: int) -> bool:
        """As `Admission.admits`."""
        return True


class AdmitNone:
    """Keeps nothing: the cache is off, and a search costs what it costs without one."""

    def admits(self, key: Hashable, size_bytes: int, room_bytes: int) -> bool:
        """As `Admission.admits`."""
        return False


class AdmitSecond:
    """Keeps what fits; once the cache is full, only what was read before and is read again.

    What is read once then neither pushes anything out nor, on the disk tier, wears the disk. The idea of a
    doorkeeper: Einziger, Friedman & Manes 2017, "TinyLFU"; here the keys themselves are remembered, exactly.

    Args:
        n_remembered: keys refused of late that are remembered; 1 or more.
    """

    def __init__(self, n_remembered: int = 16_384) -> None:
        self._n_remembered = n_remembered
        self._refused: OrderedDict[Hashable, None] = OrderedDict()

    def admits(self, key: Hashable, size_bytes: int, room_bytes: int) -> bool:
        """As `Admission.admits`."""
        known = key in self._refused
        if known:
            del self._refused[key]
        if known or size_bytes <= room_bytes:
            return True
        self._refused[key] = None
        if len(self._refused) > self._n_remembered:
            self._refused.popitem(last=False)
        return False
