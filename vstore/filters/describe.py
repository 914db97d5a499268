"""A filter tree as text, and as the dict language."""

from __future__ import annotations

import keyword
from datetime import date
from typing import Any

from vstore.filters.ast import LOGICAL, And, Condition, Node, Not, Or, fold

SHOWN_VALUES = 8
"""`describe` shows this many values of an $in and counts the rest."""

_SYMBOLS = {"$eq": "==", "$ne": "!=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_METHODS = {"$contains": "contains", "$startsWith": "startswith"}


def field_text(name: str) -> str:
    """Return the field as an F expression: `F.year`, or `F['my field']`."""
    plain = name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_")
    return f"F.{name}" if plain else f"F[{name!r}]"


def describe(tree: Node) -> str:
    """Return the tree as an F expression on one line; datetimes as ISO strings, long $in shortened."""
    return fold(tree, _describe_condition, _describe_join)


def _describe_condition(condition: Condition) -> str:
    field, op, value = field_text(condition.field), condition.op, condition.value
    if op in _SYMBOLS:
        return f"{field} {_SYMBOLS[op]} {plain_value(value)!r}"
    if op == "$exists":
        return f"{field}.exists()" if value else f"{field}.exists(False)"
    if op in ("$in", "$nin"):
        shown = ", ".join(repr(plain_value(item)) for item in value[:SHOWN_VALUES])
        rest = f", ... {len(value) - SHOWN_VALUES:,} more" if len(value) > SHOWN_VALUES else ""
        return f"{field}.{'isin' if op == '$in' else 'notin'}([{shown}{rest}])"
    return f"{field}.{_METHODS[op]}({value!r})"


def _describe_join(node: And | Or | Not, parts: list[str]) -> str:
    texts = [_enclosed(child, text) for child, text in zip(_parts(node), parts, strict=True)]
    if isinstance(node, Not):
        return f"~{texts[0]}"
    return (" & " if isinstance(node, And) else " | ").join(texts)


def _parts(node: And | Or | Not) -> tuple[Node, ...]:
    return (node.part,) if isinstance(node, Not) else node.parts


def _enclosed(node: Node, text: str) -> str:
    bare = isinstance(node, Not) or (isinstance(node, Condition) and node.op not in _SYMBOLS)
    return text if bare else f"({text})"


def to_dict(tree: Node) -> dict[str, Any]:
    """Return the tree in the dict language, of types that JSON has: datetimes are ISO strings."""
    return fold(tree, _condition_dict, _join_dict)


def _condition_dict(condition: Condition) -> dict[str, Any]:
    value = condition.value
    if condition.op in ("$in", "$nin"):
        return {condition.field: {condition.op: [plain_value(item) for item in value]}}
    return {condition.field: {condition.op: plain_value(value)}}


def _join_dict(node: And | Or | Not, parts: list[dict[str, Any]]) -> dict[str, Any]:
    if isinstance(node, Not):
        return {"$not": parts[0]}
    return {LOGICAL[0] if isinstance(node, And) else LOGICAL[1]: parts}


def plain_value(value: Any) -> Any:
    """Return a datetime or date as its ISO string, everything else as it is."""
    return value.isoformat() if isinstance(value, date) else value
