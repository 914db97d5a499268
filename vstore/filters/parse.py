"""The dict language: `{"year": {"$gte": 2020}, "tags": "bird"}` to a filter tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vstore.errors import FilterError, UnknownOperator, nearest
from vstore.filters import ast
from vstore.filters.ast import LOGICAL, OPERATORS, Node, all_of, any_of, condition
from vstore.format.scalars import kind_of, short


@dataclass(frozen=True, slots=True)
class _Path:
    """Where in the dict a part stands; kept as links, and made text only for a message."""

    above: _Path | None
    name: str
    depth: int = 0

    def below(self, name: str, deeper: int = 0) -> _Path:
        depth = self.depth + deeper
        if depth > ast.MAX_DEPTH:
            raise ast.too_deep()
        return _Path(self, name, depth)

    def __str__(self) -> str:
        names: list[str] = []
        link: _Path | None = self
        while link is not None:
            names.append(link.name)
            link = link.above
        return ".".join(reversed(names))


@dataclass(frozen=True, slots=True)
class _Filter:
    document: Any
    path: _Path


@dataclass(frozen=True, slots=True)
class _FieldFilter:
    field: str
    value: Any
    path: _Path


@dataclass(frozen=True, slots=True)
class _Operator:
    field: str
    op: str
    value: Any
    path: _Path


@dataclass(frozen=True, slots=True)
class _Join:
    join: Callable[[Iterable[Node]], Node]
    n_parts: int


_Task = _Filter | _FieldFilter | _Operator | _Join


def parse_filter(document: Mapping[str, Any]) -> Node:
    """Return the tree of a filter in the dict language.

    Raises:
        UnknownOperator: an operator that the language does not have; names the nearest.
        FilterError: malformed otherwise, too deep or too large; names the place.
    """
    tasks: list[_Task] = [_Filter(document, _Path(None, "filter"))]
    nodes: list[Node] = []
    n_tasks = 0
    while tasks:
        task = tasks.pop()
        n_tasks += 1
        if n_tasks > 8 * ast.MAX_TERMS:
            # check_limits counts exactly; this only bounds the work of parsing.
            raise FilterError(
                f"the filter has more than {ast.MAX_TERMS:,} terms; use $in for many equalities"
            )
        if isinstance(task, _Join):
            parts = nodes[-task.n_parts :]
            del nodes[-task.n_parts :]
            nodes.append(task.join(parts))
        elif isinstance(task, _Operator):
            nodes.append(_condition(task))
        else:
            expand = _expand_filter(task) if isinstance(task, _Filter) else _expand_field(task)
            tasks.extend(reversed(list(expand)))
    return nodes[0]


def _condition(task: _Operator) -> Node:
    try:
        return condition(task.field, task.op, task.value)
    except FilterError as error:
        raise type(error)(f"{task.path}: {error}") from None


def _negate(parts: Iterable[Node]) -> Node:
    (part,) = parts
    return ast.Not(part)


def _expand_filter(task: _Filter) -> Iterator[_Task]:
    document, path = task.document, task.path
    if not isinstance(document, Mapping):
        raise FilterError(
            f"{path}: {short(document)} is {kind_of(document)}; a filter is a dict, as "
            '{"year": {"$gte": 2020}}'
        )
    if not document:
        raise FilterError(f"{path}: the filter is empty; leave it out (None) to match every row")
    for key, value in document.items():
        if not isinstance(key, str):
            raise FilterError(
                f"{path}: the key {short(key)} is {kind_of(key)}; keys are field names or operators"
            )
        if key == "$not":
            yield _Filter(value, path.below(key, 1))
            yield _Join(_negate, 1)
        elif key in LOGICAL:
            yield from _expand_list(key, value, path)
        elif key.startswith("$"):
            raise _misplaced(key, path)
        else:
            yield _FieldFilter(key, value, path.below(key))
    yield _Join(all_of, len(document))


def _expand_list(key: str, value: Any, path: _Path) -> Iterator[_Task]:
    if not isinstance(value, (list, tuple)):
        raise FilterError(f"{path}.{key}: {short(value)} is {kind_of(value)}; give a list of filters")
    if not value:
        raise FilterError(f"{path}.{key}: the list is empty; give at least one filter, or leave {key} out")
    for i, part in enumerate(value):
        yield _Filter(part, path.below(f"{key}[{i}]", 1))
    yield _Join(all_of if key == "$and" else any_of, len(value))


def _misplaced(key: str, path: _Path) -> FilterError:
    if key in OPERATORS:
        return FilterError(f'{path}: {key} stands without a field; write {{"field": {{"{key}": ...}}}}')
    known = (*LOGICAL, *OPERATORS)
    return UnknownOperator(
        f"{path}: there is no operator {short(key)}; between filters stand "
        f"{', '.join(LOGICAL)}, under a field {', '.join(OPERATORS)}, $not{nearest(key, known)}"
    )


def _expand_field(task: _FieldFilter) -> Iterator[_Task]:
    field, value, path = task.field, task.value, task.path
    if not isinstance(value, Mapping):
        yield _Operator(field, "$eq", value, path)
        return
    if not value:
        raise FilterError(f'{path}: the operators are empty; write {{"{field}": {{"$eq": value}}}}')
    for op, operand in value.items():
        if op == "$not":
            if not isinstance(operand, Mapping):
                raise FilterError(
                    f"{path}.$not: {short(operand)} is {kind_of(operand)}; under a field $not takes "
                    f'operators, as {{"$not": {{"$gt": 5}}}}; for "is not this value" use $ne'
                )
            yield _FieldFilter(field, operand, path.below("$not", 1))
            yield _Join(_negate, 1)
        elif op in ("$and", "$or"):
            raise FilterError(
                f"{path}: {op} stands around filters, not under a field; "
                f'write {{"{op}": [{{"{field}": ...}}, ...]}}'
            )
        elif op in OPERATORS:
            yield _Operator(field, op, operand, path.below(op))
        else:
            known = (*OPERATORS, "$not")
            raise UnknownOperator(
                f"{path}: there is no operator {short(op)}; under a field stand "
                f"{', '.join(known)}{nearest(str(op), known)}"
            )
    yield _Join(all_of, len(value))
