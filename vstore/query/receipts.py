"""The receipts of a batch, each made when someone looks at it: making thousands takes longer than answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

from vstore.types import Receipt


class LaterReceipts(Sequence[Receipt]):
    """Receipts of `n` answers; who asks twice gets the same one. A pickle of them is a list.

    Args:
        n: how many.
        make: returns receipt i; called once for each that is looked at, or once a thread that looks at the
            same time.
    """

    __slots__ = ("_made", "_make", "_n")

    def __init__(self, n: int, make: Callable[[int], Receipt]) -> None:
        self._n, self._make = n, make
        self._made: dict[int, Receipt] = {}

    def put(self, i: int, receipt: Receipt) -> None:
        """Take a receipt that is there already as the i-th."""
        self._made[i] = receipt

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, at: int) -> Receipt: ...

    @overload
    def __getitem__(self, at: slice) -> list[Receipt]: ...

    def __getitem__(self, at: int | slice) -> Receipt | list[Receipt]:
        if isinstance(at, slice):
            return [self[i] for i in range(self._n)[at]]
        i = range(self._n)[at]
        made = self._made.get(i)
        # Threads that look at once make two, and all get the first that is kept.
        return self._made.setdefault(i, self._make(i)) if made is None else made

    def __repr__(self) -> str:
        return f"<{self._n} receipts>"

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)
