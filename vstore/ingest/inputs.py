"""A caller's vectors, ids, attributes and documents, checked and turned into arrays.

Everything is checked before anything is written: one bad row rejects its call whole and is named.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from vstore.errors import (
    DimensionMismatch,
    DuplicateId,
    FieldTypeError,
    InvalidDocument,
    InvalidId,
    InvalidInput,
    InvalidVector,
    UnknownField,
    nearest,
)
from vstore.format.columns import Column, column_from_values, null_column
from vstore.format.rows import RowBatch
from vstore.types import Document, Float32s, IdKind, Int64s, Key, Metric, Schema

MAX_ID_BYTES = 1024
_DOCUMENT_PARTS = ("text", "image")


def as_vectors(values: Any, *, dim: int, metric: Metric, what: str = "vector") -> Float32s:
    """Return float32[n, dim], C-contiguous, from a numpy array, nested lists or a torch tensor.

    Args:
        values: anything numpy takes, of shape (n, dim).
        dim: the collection's dimension.
        metric: under "cosine" a zero vector has no direction and is refused.
        what: what a row is called in messages.

    Raises:
        DimensionMismatch: the shape is not (n, dim).
        InvalidVector: not numbers, NaN, infinite in float32, or zero under cosine; names the row.
    """
    matrix = _as_array(values, dim, what)
    if matrix.ndim != 2 or matrix.shape[1] != dim:
        if matrix.ndim == 2 and matrix.shape[0] == 0:
            return np.empty((0, dim), dtype=np.float32)
        raise DimensionMismatch(
            f"{_many(what)} have shape {matrix.shape}; the collection needs (n, {dim}): "
            f"one row of {dim} numbers each"
        )
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(matrix, dtype=np.float32)
    finite = np.isfinite(result).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        column = int(np.argmin(np.isfinite(result[row])))
        raise InvalidVector(
            f"{what} {row} has {matrix[row, column]!s} at component {column}; "
            "components must be finite in float32: drop or repair the row"
        )
    if metric == "cosine" and len(result):
        # A norm that underflows float32 has no usable direction either.
        norms = np.sqrt(np.einsum("ij,ij->i", result, result))
        if not norms.all():
            raise InvalidVector(
                f"{what} {int(np.argmin(norms != 0))} is zero; cosine needs a direction: "
                "drop the row, or use metric='dot' or 'l2'"
            )
    return result


def _many(what: str) -> str:
    return "queries" if what == "query" else f"{what}s"


def _as_array(values: Any, dim: int, what: str) -> npt.NDArray[Any]:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # numpy has no bfloat16; float() keeps its every bit.
        values = (values.float() if values.is_floating_point() else values).numpy()
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        for row, value in enumerate(values):
            length = len(value) if hasattr(value, "__len__") else None
            if length != dim:
                raise DimensionMismatch(
                    f"{what} {row} has {length} components; the collection needs {dim}"
                ) from None
        raise InvalidVector(f"{_many(what)} cannot be read as numbers: {error}") from None
    if array.dtype.kind not in "fiub":
        raise InvalidVector(f"{_many(what)} have dtype {array.dtype}; give real numbers (float32 is stored)")
    return array


def as_query(values: Any, *, dim: int, metric: Metric) -> Float32s:
    """Return float32[dim]: one query, checked as `as_vectors` checks rows; (1, dim) is taken too."""
    matrix = _as_array(values, dim, "query")
    if matrix.ndim == 2 and matrix.shape[0] == 1:
        matrix = matrix[0]
    if matrix.ndim != 1 or matrix.shape[0] != dim:
        remedy = "; for many queries use search_batch" if matrix.ndim == 2 else ""
        raise DimensionMismatch(f"the query has shape {matrix.shape}; the collection needs ({dim},){remedy}")
    result: Float32s = as_vectors(matrix[None, :], dim=dim, metric=metric, what="query")[0]
    return result


def as_keys(ids: Any, kind: IdKind | None) -> tuple[Int64s | tuple[str, ...], IdKind]:
    """Return the ids as int64[n] or a tuple of str, and their kind.

    Args:
        ids: an iterable of int or of str, or a numpy array of either.
        kind: the collection's kind, or None where nothing was ever written.

    Raises:
        InvalidId: neither int nor str, of the other kind, past int64, empty or too long; names the row.
    """
    if isinstance(ids, (str, bytes, int)):
        raise InvalidId(f"ids is {ids!r}; give a list of ids, [{ids!r}] for one")
    if hasattr(ids, "tolist") and not isinstance(ids, np.ndarray):
        ids = ids.tolist()
    if isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind == "i":
        keys: Int64s | tuple[str, ...] = ids.astype(np.int64)
        found: IdKind = "int"
    else:
        keys, found = _keys_from_list(list(ids), kind)
    if kind is not None and found != kind and len(keys):
        raise InvalidId(f"id 0 is {keys[0]!r}, a {found}; this collection's ids are {kind}")
    return keys, kind or found


def _keys_from_list(ids: list[Any], kind: IdKind | None) -> tuple[Int64s | tuple[str, ...], IdKind]:
    if not ids:
        return (np.empty(0, dtype=np.int64), "int") if kind != "str" else ((), "str")
    found: IdKind = "str" if isinstance(ids[0], str) else "int"
    for row, value in enumerate(ids):
        if found == "str" and isinstance(value, str):
            _check_text_id(value, row)
        elif not (found == "int" and isinstance(value, (int, np.integer)) and not isinstance(value, bool)):
            raise InvalidId(
                f"id {row} is {value!r}, a {type(value).__name__}; "
                "ids are int or str, one kind in a collection"
            )
    if found == "str":
        return tuple(str(value) for value in ids), "str"
    try:
        return np.array(ids, dtype=np.int64), "int"
    except OverflowError:
        row = next(i for i, value in enumerate(ids) if not -(2**63) <= int(value) < 2**63)
        raise InvalidId(
            f"id {row} is {ids[row]}; int ids are from -2**63 to 2**63 - 1: use str ids for longer ones"
        ) from None


def _check_text_id(value: str, row: int) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidId(f"id {row} is {value!r}, which is not valid Unicode text") from None
    if not 1 <= size <= MAX_ID_BYTES:
        raise InvalidId(f"id {row} has {size} bytes; str ids have from 1 to {MAX_ID_BYTES} bytes of UTF-8")


def check_unique(keys: Int64s | tuple[str, ...]) -> None:
    """Raise DuplicateId, naming both rows, where a key comes twice."""
    if isinstance(keys, np.ndarray):
        if len(np.unique(keys)) == len(keys):
            return
        keys = tuple(keys.tolist())
    elif len(set(keys)) == len(keys):
        return
    first: dict[Key, int] = {}
    for row, key in enumerate(keys):
        if key in first:
            raise DuplicateId(
                f"id {key!r} comes twice in one call, in rows {first[key]} and {row}; "
                "keep one of them, or make two calls (the last write wins)"
            )
        first[key] = row


def as_columns(attributes: Any, schema: Schema, n: int) -> dict[str, Column]:
    """Return a column of n rows for every field of the schema, from row dicts or a dict of columns.

    Raises:
        InvalidInput: another number of rows than n.
        UnknownField: a name that the schema does not have.
        FieldTypeError: a value that its field cannot hold; names the row.
    """
    if attributes is None:
        return {name: null_column(kind, n) for name, kind in schema.fields.items()}
    given: dict[str, Any]
    if isinstance(attributes, Mapping):
        given = {
            name: list(values) if not isinstance(values, np.ndarray) else values
            for name, values in attributes.items()
        }
        _check_fields(given, schema, where="attributes")
        for name, values in given.items():
            if len(values) != n:
                raise InvalidInput(f"attribute column {name!r} has {len(values)} values; there are {n} ids")
    else:
        given = _columns_from_rows(list(attributes), schema, n)
    return {
        name: column_from_values(kind, given[name], field=name) if name in given else null_column(kind, n)
        for name, kind in schema.fields.items()
    }


def _columns_from_rows(rows: Sequence[Any], schema: Schema, n: int) -> dict[str, list[Any]]:
    if len(rows) != n:
        raise InvalidInput(
            f"attributes has {len(rows)} rows; there are {n} ids: give one dict (or None) for each"
        )
    known = set(schema.fields)
    for row, values in enumerate(rows):
        if values is None:
            continue
        if not isinstance(values, Mapping):
            raise FieldTypeError(f"attributes row {row} is {values!r}; give a dict of field values, or None")
        if not known.issuperset(values):
            _check_fields(values, schema, where=f"attributes row {row}")
    return {name: [None if row is None else row.get(name) for row in rows] for name in schema.fields}


def _check_fields(names: Iterable[Any], schema: Schema, where: str) -> None:
    for name in names:
        if name not in schema.fields:
            known = ", ".join(schema.fields) or "none"
            raise UnknownField(
                f"{where}: the collection has no field {name!r}{nearest(str(name), schema.fields)} "
                f"(fields: {known}); fields are declared in create_collection"
            )


def as_documents(documents: Any, n: int) -> tuple[Document | None, ...] | None:
    """Return n documents as {"text", "image"} dicts, or None where none were given.

    A PIL image is stored as PNG bytes; a path is stored as a reference, not read.

    Raises:
        InvalidInput: another number of documents than n.
        InvalidDocument: neither text nor a dict of "text" and "image"; names the row.
    """
    if documents is None:
        return None
    if isinstance(documents, (str, bytes, Mapping)):
        raise InvalidDocument(f"documents is one {type(documents).__name__}; give a list, one for each id")
    given = list(documents)
    if len(given) != n:
        raise InvalidInput(f"there are {len(given)} documents and {n} ids; give one (or None) for each id")
    return tuple(_as_document(document, row) for row, document in enumerate(given))


def _as_document(document: Any, row: int) -> Document | None:
    if document is None:
        return None
    if isinstance(document, str):
        return {"text": document}
    if not isinstance(document, Mapping):
        raise InvalidDocument(
            f"document {row} is a {type(document).__name__}; give text or {{'text', 'image'}}"
        )
    unknown = [part for part in document if part not in _DOCUMENT_PARTS]
    if unknown:
        raise InvalidDocument(
            f"document {row} has {unknown[0]!r}{nearest(str(unknown[0]), _DOCUMENT_PARTS)}; "
            "a document has 'text' and 'image': put the rest into attributes"
        )
    stored: Document = {}
    text, image = document.get("text"), document.get("image")
    if text is not None:
        if not isinstance(text, str):
            raise InvalidDocument(f"document {row}: 'text' is a {type(text).__name__}; it must be a str")
        stored["text"] = text
    if image is not None:
        stored["image"] = _as_image(image, row)
    return stored


def _as_image(image: Any, row: int) -> bytes | str:
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (str, PurePath)):
        return str(image)
    if hasattr(image, "save") and hasattr(image, "mode"):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        return buffer.getvalue()
    raise InvalidDocument(
        f"document {row}: 'image' is a {type(image).__name__}; give a path, encoded bytes or a PIL image"
    )


def row_batch(
    ids: Any, vectors: Any, attributes: Any, documents: Any, *, schema: Schema, kind: IdKind | None
) -> RowBatch:
    """Check one upsert whole and return it as arrays.

    Raises: as the functions of this module.
    """
    keys, found = as_keys(ids, kind)
    matrix = as_vectors(vectors, dim=schema.dim, metric=schema.metric)
    if len(matrix) != len(keys):
        raise InvalidInput(
            f"there are {len(keys)} ids and {len(matrix)} vectors; give one vector for each id"
        )
    check_unique(keys)
    n = len(keys)
    return RowBatch(keys, found, matrix, as_columns(attributes, schema, n), as_documents(documents, n))
