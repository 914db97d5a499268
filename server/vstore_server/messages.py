"""The values of the face as messages and back: one set of functions for server and both clients.

docs/PROTOCOL.md is the authority. A request's unknown field is refused, because leaving out what a
newer client asked for would answer another question; an answer's unknown field is passed over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from vstore.catalog.pins import Snapshot
from vstore.errors import nearest
from vstore.format.columns import Column, column_values
from vstore.format.rows import RowBatch
from vstore.ingest.update import Changes
from vstore.types import BatchHits, Float32s, Hit, Hits, Key, Receipt, Record, RerankReport, Schema
from vstore_server.codec import Message, is_array, pack_array, unpack_array
from vstore_server.errors import MalformedMessage, ProtocolError

PROTOCOL = {"major": 1, "minor": 2}
SERVICE = "vstore.v1.Store"

_REQUIRED: Any = object()


def path_of(method: str) -> str:
    """Return the HTTP/2 path of a method."""
    return f"/{SERVICE}/{method}"


class Reader:
    """Takes a request apart, field by field, and refuses what it does not know.

    Every method raises MalformedMessage for a field that is missing or ill-typed.
    """

    def __init__(self, message: Message, method: str) -> None:
        self._message = message
        self._method = method
        self._read: set[str] = set()

    def done(self) -> None:
        """Refuse fields that nothing asked for."""
        for name in self._message:
            if name not in self._read:
                raise MalformedMessage(
                    f"{self._method} has no field {str(name)[:80]!r}{nearest(str(name), self._read)}; "
                    f"this server speaks protocol {PROTOCOL['major']}.{PROTOCOL['minor']}"
                )

    def text(self, name: str, default: str | None = _REQUIRED) -> Any:
        """Return a str, or the default where the field is absent or nil."""
        return self._typed(name, (str,), default)

    def number(self, name: str, default: float | None = _REQUIRED) -> Any:
        """Return a float or int, or the default where the field is absent or nil."""
        return self._typed(name, (float, int), default)

    def document(self, name: str) -> Any:
        """Return a text, encoded image bytes or a map of both; None where the field is absent."""
        return self._typed(name, (str, bytes, dict), None)

    def data(self, name: str) -> Any:
        """Return bytes."""
        return self._typed(name, (bytes,), _REQUIRED)

    def whole(self, name: str, default: int | None = _REQUIRED) -> Any:
        """Return an int, or the default where the field is absent or nil."""
        return self._typed(name, (int,), default)

    def map(self, name: str, default: Message | None = _REQUIRED) -> Any:
        """Return a map, or the default where the field is absent or nil."""
        return self._typed(name, (dict,), default)

    def items(self, name: str, default: list[Any] | None = _REQUIRED) -> Any:
        """Return a list, or the default where the field is absent or nil."""
        return self._typed(name, (list,), default)

    def flag(self, name: str, default: bool) -> bool:
        """Return a bool, or the default where the field is absent or nil."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self._ill_typed(name, value, "a bool")
        return value

    def at(self, name: str, required: bool = False) -> Any:
        """Return a snapshot: a version (int), a tag (str), a time (float or timestamp); None where absent."""
        return self._typed(name, (int, float, str, datetime), _REQUIRED if required else None)

    def array(self, name: str, ndim: int) -> npt.NDArray[Any]:
        """Return a float32 array of `ndim` dimensions."""
        array = unpack_array(self._take(name, _REQUIRED), f"{self._method}: {name}")
        if array.dtype != np.float32 or array.ndim != ndim:
            raise MalformedMessage(
                f"{self._method}: {name} is {array.dtype} of {array.ndim} dimensions; "
                f"it must be float32 of {ndim}"
            )
        return array

    def keys(self, name: str) -> npt.NDArray[Any] | list[Any] | None:
        """Return ids: an int64 array or a list; None where the field is absent."""
        value = self._take(name, None)
        if value is None or isinstance(value, list):
            return value
        array = unpack_array(value, f"{self._method}: {name}")
        if array.dtype != np.int64 or array.ndim != 1:
            raise MalformedMessage(f"{self._method}: {name} must be int64 of one dimension, or a list")
        return array

    def columns(self, name: str) -> list[Any] | dict[str, Any] | None:
        """Return attributes: a list of maps, or a map of columns that are lists or arrays."""
        value = self._take(name, None)
        if value is None or isinstance(value, list):
            return value
        if not isinstance(value, dict) or is_array(value):
            raise self._ill_typed(name, value, "a list of maps or a map of columns")
        columns: dict[str, Any] = {}
        for field, values in value.items():
            where = f"{self._method}: {name}: {str(field)[:80]}"
            columns[field] = values if isinstance(values, list) else unpack_array(values, where)
        return columns

    def _take(self, name: str, default: Any) -> Any:
        self._read.add(name)
        value = self._message.get(name)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise MalformedMessage(f"{self._method} needs the field {name!r}")
        return default

    def _typed(self, name: str, kinds: tuple[type, ...], default: Any) -> Any:
        value = self._take(name, default)
        if value is not default and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise self._ill_typed(name, value, " or ".join(kind.__name__ for kind in kinds))
        return value

    def _ill_typed(self, name: str, value: Any, wanted: str) -> MalformedMessage:
        return MalformedMessage(f"{self._method}: {name} is a {type(value).__name__}; it must be {wanted}")


# Writing rows.


def rows_message(rows: RowBatch) -> Message:
    """Return the fields ids, vectors, attributes and documents of checked rows."""
    message: Message = {"ids": keys_message(rows.keys), "vectors": rows.vectors}
    columns = {name: _column(column) for name, column in rows.columns.items() if column.present.any()}
    if columns:
        message["attributes"] = columns
    if rows.documents is not None:
        message["documents"] = list(rows.documents)
    return message


def changes_message(changes: Changes, n: int) -> Any:
    """Return checked changes of n rows as attributes: columns, or maps where rows change other fields."""
    if all(given.all() for given in changes.given.values()):
        return {name: _column(column) for name, column in changes.columns.items()}
    rows: list[Message] = [{} for _ in range(n)]
    for name, column in changes.columns.items():
        for row, given, value in zip(rows, changes.given[name].tolist(), column_values(column), strict=True):
            if given:
                row[name] = value
    return rows


def slice_rows(message: Message, start: int, stop: int) -> Message:
    """Return rows start to stop of a rows message that is not encoded yet."""
    part = {name: value[start:stop] for name, value in message.items() if name != "attributes"}
    if "attributes" in message:
        part["attributes"] = {name: column[start:stop] for name, column in message["attributes"].items()}
    return part


def row_sizes(rows: RowBatch) -> npt.NDArray[np.int64]:
    """Return int64[n], about how many bytes each row takes in a message."""
    sizes = np.full(rows.n, rows.vectors.shape[1] * 4 + 16 + 16 * len(rows.columns), dtype=np.int64)
    if not isinstance(rows.keys, np.ndarray):
        sizes += np.fromiter(map(len, rows.keys), np.int64, rows.n)
    for column in rows.columns.values():
        if column.dictionary:
            longest = max(map(len, column.dictionary))
            sizes += longest if column.offsets is None else np.diff(column.offsets) * longest
        elif column.offsets is not None:
            sizes += np.diff(column.offsets) * 9
    for row, document in enumerate(rows.documents or ()):
        for part in (document or {}).values():
            # A character of text is at most four bytes.
            sizes[row] += len(part) * (4 if isinstance(part, str) else 1)
    return sizes


def keys_message(keys: Any) -> Any:
    """Return ids as they travel: an int64 array, or a list of str."""
    return keys if isinstance(keys, np.ndarray) else list(keys)


def _column(column: Column) -> Any:
    if column.type in ("int", "float", "bool") and column.present.all():
        return column.values
    return column_values(column)


# Answers.


def hits_message(hits: Hits) -> Message:
    """Return an answer as columns of hits, and its receipt."""
    return {**hits.columns(), "receipt": receipt_message(hits.receipt)}


def read_hits(message: Message) -> Hits:
    """Return the answer of a `Search`; objects of hits and receipt are made when someone looks."""
    columns = _columns(message, _HIT)
    receipt = _field(message, "receipt")
    if not isinstance(receipt, Mapping):
        raise ProtocolError(f"the answer has a {type(receipt).__name__} for its receipt")
    if receipt.get("rerank"):
        # Their first scores and ranks are their own.
        return Hits([Hit(*row) for row in zip(*columns, strict=True)], read_receipt(receipt))
    return Hits(_Rows(columns), Receipt.later(partial(_receipt_values, receipt)))


_HIT = ("ids", "scores", "distances", "attributes", "documents", "first_scores", "first_ranks")


class _Rows:
    """The columns of an answer (`HitRows`)."""

    __slots__ = ("_columns",)

    def __init__(self, columns: list[list[Any]]) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns[0])

    def ids(self) -> list[Key]:
        """As `HitRows.ids`."""
        return list(self._columns[0])

    def scores(self) -> Float32s:
        """As `HitRows.scores`."""
        return np.array(self._columns[1], np.float32)

    def columns(self) -> tuple[Any, ...]:
        """As `HitRows.columns`."""
        return tuple(self._columns[:5])

    def hits(self) -> list[Hit]:
        """As `HitRows.hits`."""
        return [Hit(*row) for row in zip(*self._columns, strict=True)]


def batch_message(batch: BatchHits) -> Message:
    """Return the answers of a batch: ids (n, k), scores (n, k) and receipts."""
    ids: Any = batch.ids.tolist() if batch.ids.dtype == object else pack_array(batch.ids)
    return {"ids": ids, "scores": batch.scores, "receipts": [receipt_message(r) for r in batch.receipts]}


def read_batch(message: Message) -> BatchHits:
    """Return the answers of a `SearchBatch`."""
    scores: Float32s = _answer_array(message, "scores").copy()
    given = _field(message, "ids")
    if is_array(given):
        ids: npt.NDArray[Any] = unpack_array(given, "the answer's ids").copy()
    else:
        ids = np.full(scores.shape, None, dtype=object)
        for row, keys in enumerate(given):
            ids[row, :] = keys
    return BatchHits(ids, scores, [read_receipt(receipt) for receipt in _field(message, "receipts")])


def snapshots_message(snapshots: Sequence[Snapshot]) -> Message:
    """Return the versions that can be opened, as columns."""
    return {
        "versions": [snapshot.version for snapshot in snapshots],
        "created_at": [snapshot.created_at for snapshot in snapshots],
        "rows": [snapshot.n_rows for snapshot in snapshots],
        "tags": [list(snapshot.tags) for snapshot in snapshots],
    }


def read_snapshots(message: Message) -> list[Snapshot]:
    """Return the answer of a `Snapshots`."""
    columns = _columns(message, ("versions", "created_at", "rows", "tags"))
    rows = zip(*columns, strict=True)
    return [Snapshot(version, created_at, n, tuple(tags)) for version, created_at, n, tags in rows]


def records_message(records: Sequence[Record | None], dim: int) -> Message:
    """Return what `get` found: `found` bool[n], and the fields of the records that were."""
    held = [record for record in records if record is not None]
    found = np.array([record is not None for record in records], dtype=np.bool_)
    return {"found": found, **batch_of_records(held, dim)}


def batch_of_records(records: Sequence[Record], dim: int) -> Message:
    """Return records as columns: ids, vectors float32 (n, dim), attributes and documents."""
    return {
        "ids": [record.id for record in records],
        "vectors": np.stack([r.vector for r in records]) if records else np.empty((0, dim), np.float32),
        "attributes": [record.attributes for record in records],
        "documents": [record.document for record in records],
    }


def read_records(message: Message) -> list[Record | None]:
    """Return the answer of a `Get`: a record, or None, for each id."""
    records = read_batch_of_records(message)
    held, found = iter(records), _answer_array(message, "found")
    if int(found.sum()) != len(records):
        raise ProtocolError(
            f"the answer has {len(records)} records and says that {int(found.sum())} were found"
        )
    return [next(held) if there else None for there in found.tolist()]


def read_batch_of_records(message: Message) -> list[Record]:
    """Return the records of a message that has them as columns."""
    vectors = _answer_array(message, "vectors").copy()
    ids, attributes, documents = _columns(message, ("ids", "attributes", "documents"))
    if len(vectors) != len(ids):
        raise ProtocolError(f"the answer has {len(ids)} ids and {len(vectors)} vectors")
    return [Record(*row) for row in zip(ids, vectors, attributes, documents, strict=True)]


def receipt_message(receipt: Receipt) -> Message:
    """Return a receipt as a map; every field of `Receipt` under its own name."""
    message = receipt.values()
    if message["rerank"]:
        message["rerank"] = [dataclasses.asdict(report) for report in message["rerank"]]
    return message


def read_receipt(message: Any) -> Receipt:
    """Return the receipt of an answer; fields that a newer server added are passed over."""
    return Receipt(**_receipt_values(message))


def _receipt_values(message: Any) -> dict[str, Any]:
    values = _known(message, _RECEIPT)
    values["rerank"] = [RerankReport(**_known(report, _REPORT)) for report in values.get("rerank") or []]
    # What an older server does not know of has its default.
    return values if len(values) == len(_RECEIPT) else Receipt(**values).values()


def schema_message(schema: Schema) -> Message:
    """Return dimension, metric and fields."""
    return {"dim": schema.dim, "metric": schema.metric, "fields": dict(schema.fields)}


def read_schema(message: Message) -> Schema:
    """Return the schema of a `Describe`."""
    return Schema(_field(message, "dim"), _field(message, "metric"), dict(_field(message, "fields")))


def read_keys(value: Any) -> list[Key]:
    """Return ids that travelled as a list or an array."""
    keys: list[Key] = unpack_array(value, "ids").tolist() if is_array(value) else list(value)
    return keys


def read_value(message: Message, name: str) -> Any:
    """Return one field of an answer.

    Raises:
        ProtocolError: the answer lacks it.
    """
    return _field(message, name)


_RECEIPT = tuple(f.name for f in dataclasses.fields(Receipt))
_REPORT = tuple(f.name for f in dataclasses.fields(RerankReport))


def _known(message: Any, names: Sequence[str]) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ProtocolError(f"the answer has a {type(message).__name__} where a map belongs")
    return {name: message[name] for name in names if name in message}


def _field(message: Message, name: str) -> Any:
    if name not in message:
        raise ProtocolError(f"the answer lacks the field {name!r}; client and server differ in protocol")
    return message[name]


def _columns(message: Message, names: Sequence[str]) -> list[list[Any]]:
    columns = [_field(message, name) for name in names]
    if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        raise ProtocolError(f"the answer's columns {', '.join(names)} are not lists of one length")
    return columns


def _answer_array(message: Message, name: str) -> npt.NDArray[Any]:
    try:
        return unpack_array(_field(message, name), f"the answer's {name}")
    except MalformedMessage as error:
        raise ProtocolError(str(error)) from None
