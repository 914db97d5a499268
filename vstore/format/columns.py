"""A field of many rows as arrays: what filters evaluate, the memtable holds and shards store."""

from __future__ import annotations

import builtins
import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt

from vstore.errors import FieldTypeError, InvalidInput, nearest
from vstore.format.scalars import (
    MICROS_MAX,
    MICROS_MIN,
    bool_value,
    datetime_micros,
    float_value,
    int_value,
    kind_of,
    micros_datetime,
    short,
    str_value,
)
from vstore.types import FIELD_TYPES, Bools, FieldType, Int64s

__all__ = [
    "Column",
    "column_from_values",
    "column_values",
    "concat_columns",
    "datetime_micros",
    "null_column",
    "take_column",
]

_DTYPES: dict[FieldType, npt.DTypeLike] = {
    "int": np.int64,
    "float": np.float64,
    "bool": np.bool_,
    "str": np.int32,
    "datetime": np.int64,
    "list[str]": np.int32,
    "list[int]": np.int64,
}
_EXACT: dict[FieldType, type] = {"int": int, "float": float, "bool": bool}
_CONVERT: dict[FieldType, Callable[[Any], Any]] = {
    "int": int_value,
    "float": float_value,
    "bool": bool_value,
    "datetime": datetime_micros,
}
_NAT = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class Column:
    """One field of n rows. A null row has `present` False and holds the type's zero (or no items).

    | type      | values                                  | offsets    | dictionary               |
    |-----------|-----------------------------------------|------------|--------------------------|
    | int       | int64[n]                                | None       | None                     |
    | float     | float64[n]                              | None       | None                     |
    | bool      | bool[n]                                 | None       | None                     |
    | datetime  | int64[n], microseconds since 1970 UTC   | None       | None                     |
    | str       | int32[n], index into dictionary         | None       | unique str, sorted       |
    | list[str] | int32[n_items], index into dictionary   | int64[n+1] | unique str, sorted       |
    | list[int] | int64[n_items]                          | int64[n+1] | None                     |

    The items of row i of a list are `values[offsets[i]:offsets[i + 1]]`. Strings sort by code point.
    A null row of a str field holds code 0 even where the dictionary is empty: look at `present` first.
    Arrays are owned by the column and never written to.
    """

    type: FieldType
    present: Bools
    values: npt.NDArray[np.generic]
    offsets: Int64s | None = None
    dictionary: tuple[str, ...] | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.present)


def null_column(type: FieldType, n: int) -> Column:
    """Return a column of n null rows.

    Raises:
        FieldTypeError: no such field type.
    """
    _check_type(type, "x")
    return Column(
        type=type,
        present=np.zeros(n, dtype=np.bool_),
        values=np.zeros(0 if _is_list(type) else n, dtype=_DTYPES[type]),
        offsets=np.zeros(n + 1, dtype=np.int64) if _is_list(type) else None,
        dictionary=() if _has_dictionary(type) else None,
    )


def column_from_values(type: FieldType, values: Sequence[Any] | npt.NDArray[Any], field: str = "x") -> Column:
    """Return the column of one Python value a row; None (and numpy's NaT) is null.

    Args:
        type: the field's type.
        values: n values, a sequence or a numpy array (numbers of a fitting dtype are converted at once).
        field: the field's name, for messages.

    Raises:
        FieldTypeError: no such field type, or a value that it cannot hold; names field, row and value.
    """
    _check_type(type, field)
    if isinstance(values, np.ndarray):
        column = _from_array(type, values, field)
        if column is not None:
            return column
        values = values.tolist() if isinstance(values, np.ma.MaskedArray) else list(values)
    elif not isinstance(values, (list, tuple)):
        values = list(values)
    if _is_list(type):
        return _list_column(type, values, field)
    present = np.fromiter((value is not None for value in values), dtype=np.bool_, count=len(values))
    encoded, dictionary = _encode(type, values, lambda row, reason: _ill_typed(field, type, row, reason))
    if type == "datetime":
        # NaT counts as absent too, and only the encoder knows it.
        present &= encoded != _NAT
        encoded[~present] = 0
    return Column(type, present, encoded, dictionary=dictionary)


def concat_columns(columns: Sequence[Column]) -> Column:
    """Return one column of all the rows, in order.

    Raises:
        InvalidInput: no columns.
        FieldTypeError: columns of different types.
    """
    if not columns:
        raise InvalidInput("there are 0 columns to concatenate; give at least 1, or use null_column")
    first = columns[0]
    if len(columns) == 1:
        return first
    for column in columns:
        if column.type != first.type:
            raise FieldTypeError(
                f"columns of types {first.type!r} and {column.type!r} cannot be concatenated"
            )
    present = np.concatenate([column.present for column in columns])
    dictionary, parts = first.dictionary, [column.values for column in columns]
    if dictionary is not None and any(column.dictionary != dictionary for column in columns):
        dictionary, parts = _merge_dictionaries(columns)
    offsets = None
    if first.offsets is not None:
        lengths = [np.diff(column.offsets) for column in columns if column.offsets is not None]
        offsets = _offsets(np.concatenate(lengths))
    return Column(first.type, present, np.concatenate(parts), offsets, dictionary)


def take_column(column: Column, index: npt.NDArray[np.integer[Any]]) -> Column:
    """Return rows `index` (int[m], from 0 to n - 1) as a column whose dictionary holds only what they use."""
    present = column.present[index]
    if column.offsets is None:
        values, offsets = column.values[index], None
    else:
        starts = column.offsets[index]
        lengths = column.offsets[np.asarray(index) + 1] - starts
        offsets = _offsets(lengths)
        items = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        values = column.values[items]
    dictionary = column.dictionary
    if dictionary is not None:
        codes = values if offsets is not None else values[present]
        used = np.unique(codes)
        if len(used) < len(dictionary):
            # A null row's code is 0, which goes before all that are used, so it stays 0.
            values = np.searchsorted(used, values).astype(np.int32)
            dictionary = tuple(dictionary[code] for code in used.tolist())
    return Column(column.type, present, values, offsets, dictionary)


def column_values(column: Column, index: npt.NDArray[np.integer[Any]] | None = None) -> list[Any]:
    """Return the rows (all, or `index`) as Python objects: None where null, datetimes aware in UTC."""
    if index is not None:
        column = take_column(column, index)
    items: list[Any] = column.values.tolist()
    if column.dictionary:
        items = [column.dictionary[code] for code in items]
    elif column.type == "datetime":
        items = [micros_datetime(micros) for micros in items]
    if column.offsets is not None:
        bounds = column.offsets.tolist()
        items = [items[start:stop] for start, stop in itertools.pairwise(bounds)]
    if column.present.all():
        return items
    return [item if present else None for item, present in zip(items, column.present.tolist(), strict=True)]


def _check_type(type: str, field: str) -> None:
    if type not in FIELD_TYPES:
        raise FieldTypeError(
            f"field {field!r} has type {type!r}; "
            f"the types are {', '.join(FIELD_TYPES)}{nearest(str(type), FIELD_TYPES)}"
        )


def _is_list(type: FieldType) -> bool:
    return type in ("list[str]", "list[int]")


def _has_dictionary(type: FieldType) -> bool:
    return type in ("str", "list[str]")


def _ill_typed(field: str, type: FieldType, row: int, reason: str) -> FieldTypeError:
    return FieldTypeError(f"field {field!r} ({type}), row {row}: {reason}")


def _offsets(lengths: npt.NDArray[Any]) -> Int64s:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _from_array(type: FieldType, array: npt.NDArray[Any], field: str) -> Column | None:
    """Return the column of a numpy array whose dtype fits, or None: look at each value then."""
    if isinstance(array, np.ma.MaskedArray):
        return None
    kind, n = array.dtype.kind, len(array) if array.ndim else 0
    present = np.ones(n, dtype=np.bool_)
    if type == "list[int]" and array.ndim == 2 and kind == "i":
        offsets = np.arange(n + 1, dtype=np.int64) * array.shape[1]
        return Column(type, present, array.astype(np.int64).ravel(), offsets)
    if array.ndim != 1:
        if array.ndim == 0 or not _is_list(type):
            raise FieldTypeError(
                f"field {field!r} ({type}): the array has shape {array.shape}; give one value a row"
            )
        return None
    if (type, kind) in (("int", "i"), ("bool", "b")):
        return Column(type, present, array.astype(_DTYPES[type]))
    if (
        type == "float"
        and kind in "iu"
        and (n == 0 or (int(array.max()) <= 2**53 and int(array.min()) >= -(2**53)))
    ):
        return Column(type, present, array.astype(np.float64))
    if type == "float" and kind == "f" and array.dtype.itemsize <= 8:
        nan = np.isnan(array)
        if nan.any():
            raise _ill_typed(field, type, int(np.argmax(nan)), "it is NaN; use None for an absent value")
        return Column(type, present, array.astype(np.float64))
    if type == "datetime" and kind == "M":
        return _from_datetimes(array, field)
    return None


def _from_datetimes(array: npt.NDArray[np.datetime64], field: str) -> Column:
    present = ~np.isnat(array)
    micros = np.zeros(len(array), dtype=np.int64)
    exact = np.zeros(len(array), dtype=np.bool_)
    with contextlib.suppress(OverflowError):
        times = array.astype("datetime64[us]")
        exact = times.astype(array.dtype) == array
        micros = np.where(present, times.astype(np.int64), 0)
    wrong = present & ~(exact & (micros >= MICROS_MIN) & (micros <= MICROS_MAX))
    for row in np.flatnonzero(wrong).tolist():
        try:
            micros[row] = datetime_micros(array[row])
        except ValueError as error:
            raise _ill_typed(field, "datetime", row, str(error)) from None
    return Column("datetime", present, micros)


def _list_column(type: FieldType, rows: Sequence[Any], field: str) -> Column:
    item_type: FieldType = "str" if type == "list[str]" else "int"
    items: list[Any] = []
    lengths = np.zeros(len(rows), dtype=np.int64)
    for row, value in enumerate(rows):
        if value is None:
            continue
        if isinstance(value, (set, frozenset)):
            # A set's order differs from run to run. What does not sort is refused below, item by item.
            value = list(value)
            with contextlib.suppress(TypeError):
                value.sort()
        if not (isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 1)):
            raise _ill_typed(
                field,
                type,
                row,
                f"{short(value)} is {kind_of(value)}; give a list of {item_type}, [] for none",
            )
        items.extend(value.tolist() if isinstance(value, np.ndarray) and value.dtype.kind in "iuU" else value)
        lengths[row] = len(value)
    offsets = _offsets(lengths)

    def fail(position: int, reason: str) -> FieldTypeError:
        row = int(np.searchsorted(offsets, position, side="right")) - 1
        return _ill_typed(field, type, row, f"item {position - int(offsets[row])}: {reason}")

    for position, item in enumerate(items):
        if item is None:
            raise fail(position, "None is no item; leave it out")
    values, dictionary = _encode(item_type, items, fail)
    present = np.fromiter((value is not None for value in rows), dtype=np.bool_, count=len(rows))
    return Column(type, present, values, offsets, dictionary)


def _encode(
    type: FieldType, values: Sequence[Any], fail: Callable[[int, str], FieldTypeError]
) -> tuple[npt.NDArray[Any], tuple[str, ...] | None]:
    """Return the array of one scalar type, zero where None, and a str's dictionary."""
    if type == "str":
        return _encode_str(values, fail)
    exact = _EXACT.get(type)
    if exact is not None and set(map(builtins.type, values)) <= {exact, NoneType}:
        # Python's own types, all alike: numpy converts them at once, and finds what does not fit.
        zero = exact()
        with contextlib.suppress(OverflowError):
            array = np.array([zero if value is None else value for value in values], dtype=_DTYPES[type])
            if type != "float" or not np.isnan(array).any():
                return array, None
    convert = _CONVERT[type]
    result = np.zeros(len(values), dtype=_DTYPES[type])
    for row, value in enumerate(values):
        if value is None:
            continue
        try:
            result[row] = _NAT if type == "datetime" and _is_nat(value) else convert(value)
        except ValueError as error:
            raise fail(row, str(error)) from None
    return result, None


def _is_nat(value: Any) -> bool:
    # pandas.NaT is a datetime that does not equal itself, as numpy's.
    return isinstance(value, (datetime, np.datetime64)) and bool(value != value)


def _encode_str(
    values: Sequence[Any], fail: Callable[[int, str], FieldTypeError]
) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
    if not set(map(builtins.type, values)) <= {str, NoneType}:
        values = [value if value is None else _text(value, row, fail) for row, value in enumerate(values)]
    distinct = set(values)
    distinct.discard(None)
    dictionary = tuple(sorted(distinct))
    if not all(map(str.isascii, dictionary)):
        for row, value in enumerate(values):
            if value is not None:
                _text(value, row, fail)
    code_of: dict[str | None, int] = {text: code for code, text in enumerate(dictionary)}
    code_of[None] = 0
    return np.fromiter(map(code_of.__getitem__, values), dtype=np.int32, count=len(values)), dictionary


def _text(value: Any, row: int, fail: Callable[[int, str], FieldTypeError]) -> str:
    try:
        return str_value(value)
    except ValueError as error:
        raise fail(row, str(error)) from None


def _merge_dictionaries(
    columns: Sequence[Column],
) -> tuple[tuple[str, ...], list[npt.NDArray[np.generic]]]:
    merged = tuple(sorted(set().union(*(column.dictionary or () for column in columns))))
    code_of = {text: code for code, text in enumerate(merged)}
    parts: list[npt.NDArray[np.generic]] = []
    for column in columns:
        # The extra 0 is the code of null rows where the dictionary is empty.
        moved = np.array([*(code_of[text] for text in column.dictionary or ()), 0], dtype=np.int32)
        values = moved[column.values]
        parts.append(values if column.offsets is not None else np.where(column.present, values, np.int32(0)))
    return merged, parts
