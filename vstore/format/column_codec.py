"""Columns as bytes: one msgpack map of raw little-endian arrays."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from vstore.errors import CorruptData
from vstore.format.columns import Column
from vstore.format.frame import decoding, natural, pack, unpack
from vstore.types import FIELD_TYPES, Bools, FieldType

_STORED: dict[FieldType, str] = {
    "int": "<i8",
    "float": "<f8",
    "bool": "|u1",
    "datetime": "<i8",
    "str": "<i4",
    "list[str]": "<i4",
    "list[int]": "<i8",
}


def encode_column(column: Column) -> bytes:
    """Return the bytes of a column; compress them elsewhere."""
    stored: dict[str, Any] = {
        "type": column.type,
        "n": column.n,
        "present": np.packbits(column.present, bitorder="little").tobytes(),
        "values": column.values.astype(_STORED[column.type]).tobytes(),
    }
    if column.offsets is not None:
        stored["offsets"] = column.offsets.astype("<i8").tobytes()
    if column.dictionary is not None:
        stored["dictionary"] = list(column.dictionary)
    return pack(stored)


def decode_column(data: bytes, where: str) -> Column:
    """Return the column that `data` holds.

    Raises:
        CorruptData: it holds none, or one that contradicts itself.
    """
    stored = unpack(data, where)
    with decoding(where):
        kind = stored["type"]
        if kind not in FIELD_TYPES:
            raise CorruptData(f"{where}: unknown field type {kind!r}")
        n = natural(stored["n"])
        present = _present(stored["present"], n, where)
        values = _array(stored["values"], _STORED[kind])
        if kind == "bool":
            if (values > 1).any():
                raise CorruptData(f"{where}: a bool is neither 0 nor 1")
            values = values.astype(np.bool_)
        offsets = _array(stored["offsets"], "<i8") if kind.startswith("list") else None
        dictionary = tuple(stored["dictionary"]) if kind in ("str", "list[str]") else None
        column = Column(kind, present, values, offsets, dictionary)
    _check(column, n, where)
    return column


def _present(raw: bytes, n: int, where: str) -> Bools:
    # numpy would pad missing bits with zeros, and allocate n of them whatever n is.
    if len(raw) != -(-n // 8):
        raise CorruptData(f"{where}: {len(raw)} bytes of null flags; {n} rows need {-(-n // 8)}")
    bits = np.unpackbits(np.frombuffer(raw, dtype=np.uint8), bitorder="little").astype(np.bool_)
    if bits[n:].any():
        raise CorruptData(f"{where}: null flags past the {n} rows are set")
    return bits[:n]


def _array(raw: bytes, stored: str) -> npt.NDArray[Any]:
    return np.frombuffer(raw, dtype=stored).astype(np.dtype(stored).newbyteorder("="))


def _check(column: Column, n: int, where: str) -> None:
    n_values = len(column.values)
    if column.offsets is None:
        if n_values != n:
            raise CorruptData(f"{where}: {n_values} values for {n} rows")
    elif (
        len(column.offsets) != n + 1
        or column.offsets[0] != 0
        or column.offsets[-1] != n_values
        or bool((np.diff(column.offsets) < 0).any())
    ):
        raise CorruptData(f"{where}: the list offsets do not cover the {n_values} items in order")
    elif np.diff(column.offsets)[~column.present].any():
        raise CorruptData(f"{where}: a null row holds items")
    if column.dictionary is None:
        return
    words = column.dictionary
    if not all(isinstance(word, str) for word in words) or any(a >= b for a, b in itertools.pairwise(words)):
        raise CorruptData(f"{where}: the dictionary is not sorted unique text")
    codes = column.values
    if column.offsets is None:
        if codes[~column.present].any():
            raise CorruptData(f"{where}: a null row holds a code other than 0")
        codes = codes[column.present]
    if len(codes) and not (int(codes.min()) >= 0 and int(codes.max()) < len(words)):
        raise CorruptData(f"{where}: a code lies outside the dictionary of {len(words)}")
