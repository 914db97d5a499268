"""Products of many rows with fixed weights by seven products of halves instead of eight.

Winograd's variant of Strassen's algorithm (Strassen 1969; Winograd 1971; Higham, "Accuracy and Stability of
Numerical Algorithms", 23.1), one level deep: an eighth fewer multiplications. The sums of weights are made
once. What is left are sums over halves of the rows and of the result, which cost less than is saved from
some hundred rows on. Rounding is a few times the plain product's, and small beside the whole product, not
beside each value of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LEAST_ROWS = 512
"""Fewer rows are multiplied plainly."""

Space = Callable[[str, int, int], Any]
"""(name, rows, columns) -> float32[rows, columns] to write to, the same memory at every call."""


class Product:
    """`rows @ weights + bias`, by quarters where the rows are many.

    Args:
        torch: the module.
        weights: float32[k, n], kept.
        bias: float32[n], kept.
        halves: whether to keep sums of the weights' quarters, as large as the weights together, for seven
            products; without them, and where k or n is odd, all products are plain.
    """

    def __init__(self, torch: Any, weights: Any, bias: Any, *, halves: bool) -> None:
        self._torch = torch
        self._weights, self._bias = weights, bias
        k, n = weights.shape
        self._quarters: tuple[Any, ...] = ()
        if halves and k % 2 == 0 and n % 2 == 0:
            self._k, self._n = k // 2, n // 2
            (b11, b12), (b21, b22) = (half.split(self._n, 1) for half in weights.split(self._k))
            t1 = b12 - b11
            t2 = b22 - t1
            self._quarters = (b11, b21, b22, t1, t2, b22 - b12, b21 - t2)
            self._left, self._right = bias[: self._n], bias[self._n :] - bias[: self._n]

    def of(self, rows: Any, out: Any, space: Space) -> None:
        """Write the product and the bias to `out`.

        Args:
            rows: float32[m, k].
            out: float32[m, n].
            space: what is written to meanwhile; under the names "sum", "first" and "second".
        """
        torch = self._torch
        m = self._half(rows)
        if m == 0:
            torch.addmm(self._bias, rows, self._weights, out=out)
            return
        if len(rows) > 2 * m:
            torch.addmm(self._bias, rows[2 * m :], self._weights, out=out[2 * m :])
        a11, a12, a21, a22 = self._split(rows, m, self._k)
        c11, c12, c21, c22 = self._split(out, m, self._n)
        b11, b21, b22, t1, t2, t3, t4 = self._quarters
        of_rows, first, second = self._spaces(space, m)
        torch.add(a21, a22, out=of_rows)
        torch.addmm(self._right, of_rows, t1, out=second)
        of_rows.sub_(a11)
        # All but the upper left quarter contain `first`, which so brings them the left half's bias.
        torch.addmm(self._left, a11, b11, out=c11)
        torch.addmm(c11, of_rows, t2, out=first)
        c11.addmm_(a12, b21)
        torch.sub(a12, of_rows, out=of_rows)
        torch.add(first, second, out=c12)
        c12.addmm_(of_rows, b22)
        torch.sub(a11, a21, out=of_rows)
        first.addmm_(of_rows, t3)
        torch.add(first, second, out=c22)
        torch.addmm(first, a22, t4, out=c21)

    def onto(self, rows: Any, out: Any, space: Space) -> None:
        """Add the product and the bias to `out`; arguments as of `of`."""
        torch = self._torch
        out.add_(self._bias)
        m = self._half(rows)
        if m == 0:
            out.addmm_(rows, self._weights)
            return
        if len(rows) > 2 * m:
            out[2 * m :].addmm_(rows[2 * m :], self._weights)
        a11, a12, a21, a22 = self._split(rows, m, self._k)
        c11, c12, c21, c22 = self._split(out, m, self._n)
        b11, b21, b22, t1, t2, t3, t4 = self._quarters
        of_rows, first, second = self._spaces(space, m)
        torch.add(a21, a22, out=of_rows)
        torch.mm(of_rows, t1, out=second)
        of_rows.sub_(a11)
        torch.mm(a11, b11, out=first)
        c11.addmm_(a12, b21).add_(first)
        first.addmm_(of_rows, t2)
        torch.sub(a12, of_rows, out=of_rows)
        c12.addmm_(of_rows, b22).add_(first).add_(second)
        torch.sub(a11, a21, out=of_rows)
        first.addmm_(of_rows, t3)
        c22.add_(first).add_(second)
        c21.addmm_(a22, t4).add_(first)

    def _half(self, rows: Any) -> int:
        """Return how many rows a half has, 0 for a plain product; an odd row is left over."""
        return len(rows) // 2 if self._quarters and len(rows) >= LEAST_ROWS else 0

    def _spaces(self, space: Space, m: int) -> tuple[Any, Any, Any]:
        return space("sum", m, self._k), space("first", m, self._n), space("second", m, self._n)

    @staticmethod
    def _split(whole: Any, m: int, n: int) -> tuple[Any, Any, Any, Any]:
        return whole[:m, :n], whole[:m, n:], whole[m : 2 * m, :n], whole[m : 2 * m, n:]
