"""F expressions: filters written as Python, as `(F.year >= 2020) & F.tags.contains("bird")`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

from vstore.errors import FilterError
from vstore.filters import ast
from vstore.filters.describe import describe, field_text, to_dict
from vstore.format.scalars import kind_of, short

_NO_TRUTH = (
    "a filter has no truth value of its own, so `and`, `or`, `not`, `if` and chained comparisons cannot be "
    "used on it: write `(F.a > 1) & (F.b < 2)`, `|` for or, `~` for not, and `(1 < F.x) & (F.x < 3)` "
    "for `1 < F.x < 3`"
)


class Expression:
    """A filter built from `F`. Immutable; joined by `&`, `|` and `~`."""

    __array_ufunc__ = None
    """Keeps numpy's operators from taking the expression for an array."""
    __hash__ = None  # type: ignore[assignment]
    __slots__ = ("tree",)

    tree: ast.Node

    def __init__(self, tree: ast.Node) -> None:
        self.tree = tree

    def to_dict(self) -> dict[str, Any]:
        """Return the same filter in the dict language.

        Raises:
            FilterError: too deep or too many terms.
        """
        ast.check_limits(self.tree)
        return to_dict(self.tree)

    def __and__(self, other: object) -> Expression:
        return Expression(ast.all_of((self.tree, _tree(other, "&"))))

    def __or__(self, other: object) -> Expression:
        return Expression(ast.any_of((self.tree, _tree(other, "|"))))

    def __rand__(self, other: object) -> NoReturn:
        raise _not_joined(other, "&")

    def __ror__(self, other: object) -> NoReturn:
        raise _not_joined(other, "|")

    def __invert__(self) -> Expression:
        return Expression(ast.Not(self.tree))

    def __bool__(self) -> NoReturn:
        raise FilterError(_NO_TRUTH)

    def _compared(self, other: object) -> NoReturn:
        raise FilterError(
            f"the filter {self!r} is compared with {short(other)}; filters are joined with &, | and ~, which "
            "bind tighter than comparisons: put each comparison into parentheses, as (F.a == 1) & (F.b == 2)"
        )

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _compared

    def __repr__(self) -> str:
        try:
            ast.check_limits(self.tree)
        except FilterError as error:
            return f"<{error}>"
        return describe(self.tree)


class Field:
    """A field named in a filter, as `F.year` or `F["year"]`."""

    __array_ufunc__ = None
    """Keeps numpy's operators from taking the field for an array."""
    __hash__ = None  # type: ignore[assignment]
    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise FilterError(f"F[{short(name)}]: a field's name is a str, not {kind_of(name)}")
        self._name = name

    def isin(self, values: Iterable[Any]) -> Expression:
        """Return the filter that the field equals one of `values` (a list field: holds one of them)."""
        return self._condition("$in", values)

    def notin(self, values: Iterable[Any]) -> Expression:
        """Return the complement of `isin`: it holds where the field is absent too."""
        return self._condition("$nin", values)

    def contains(self, value: Any) -> Expression:
        """Return the filter that a list field has the item `value`, or a str field the substring."""
        return self._condition("$contains", value)

    def startswith(self, prefix: str) -> Expression:
        """Return the filter that a str field begins with `prefix`."""
        return self._condition("$startsWith", prefix)

    def exists(self, flag: bool = True) -> Expression:
        """Return the filter that the field has a value (or, with False, that it is absent)."""
        return self._condition("$exists", flag)

    def __eq__(self, value: object) -> Expression:  # type: ignore[override]
        return self._condition("$eq", value)

    def __ne__(self, value: object) -> Expression:  # type: ignore[override]
        return self._condition("$ne", value)

    def __gt__(self, value: Any) -> Expression:
        return self._condition("$gt", value)

    def __ge__(self, value: Any) -> Expression:
        return self._condition("$gte", value)

    def __lt__(self, value: Any) -> Expression:
        return self._condition("$lt", value)

    def __le__(self, value: Any) -> Expression:
        return self._condition("$lte", value)

    def _condition(self, op: str, value: Any) -> Expression:
        if isinstance(value, (Field, Expression)):
            raise FilterError(
                f"{self!r}, {op}: compared with {value!r}; a field is compared with a value, not with a "
                "field or filter. If `&` or `|` follows, put each comparison into parentheses"
            )
        return Expression(ast.condition(self._name, op, value))

    def _no_condition(self, other: object = None) -> NoReturn:
        raise FilterError(
            f"{self!r} is a field, not a condition: compare it, as in ({self!r} == True), and put each "
            "comparison into parentheses, because & and | bind tighter than ==, < and >"
        )

    __and__ = __rand__ = __or__ = __ror__ = __invert__ = __bool__ = _no_condition

    def __contains__(self, value: object) -> NoReturn:
        raise FilterError(
            f"`{short(value)} in {self!r}` cannot be a filter; write {self!r}.contains({short(value)}) "
            f"or {self!r}.isin([...])"
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            # Copying, pickling and notebooks ask objects for such names.
            raise AttributeError(name)
        raise AttributeError(
            f"{self!r} has no {name!r}; it has comparisons, isin, notin, contains, startswith and exists. "
            f"A field whose name has a dot is F['{self._name}.{name}']"
        )

    def __repr__(self) -> str:
        return field_text(self._name)


class _Fields:
    """The type of `F`: an attribute or item of it is a field."""

    __slots__ = ()
    __iter__ = None

    def __getattr__(self, name: str) -> Field:
        if name.startswith("_"):
            # Copying, pickling and notebooks ask objects for such names.
            raise AttributeError(f"F has no {name!r}; a field of that name is F[{name!r}]")
        return Field(name)

    def __getitem__(self, name: str) -> Field:
        return Field(name)

    def __repr__(self) -> str:
        return "F"


F = _Fields()
"""Names fields in filters: `F.year >= 2020`, `F["my field"].exists()`."""


def _tree(other: object, symbol: str) -> ast.Node:
    if isinstance(other, Expression):
        return other.tree
    raise _not_joined(other, symbol)


def _not_joined(other: object, symbol: str) -> FilterError:
    return FilterError(
        f"`{symbol}` joins two conditions, and {short(other)} is {kind_of(other)}: put each comparison into "
        f"parentheses, as (F.a == 1) {symbol} (F.b == 2), because `{symbol}` binds tighter than ==, < and >"
    )
