"""One record of the write-ahead log: the writes of one commit, or a new writer's fence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from vstore.errors import CorruptData
from vstore.format.frame import decode_frame, decoding, encode_frame, natural, pack, text, unpack
from vstore.format.rows import RowBatch
from vstore.format.rows_codec import decode_keys, decode_rows, encode_keys, encode_rows
from vstore.types import Int64s

MAGIC: Final = b"VSTLOG\x00\x01"


@dataclass(frozen=True, slots=True)
class UpsertBatch:
    """Rows to insert, or to replace where their key exists."""

    rows: RowBatch


@dataclass(frozen=True, slots=True)
class DeleteBatch:
    """Keys whose rows die; unknown ones mean nothing."""

    keys: Int64s | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LogRecord:
    """Record number `seq` of a collection's log, by the writer of `epoch`.

    A "fence" has no batches: it ends the log of every writer of a lower epoch. `write_id` is unique to
    the put. Batches take effect in order, all of them or none.
    """

    seq: int
    epoch: int
    write_id: str
    kind: Literal["fence", "write"]
    batches: tuple[UpsertBatch | DeleteBatch, ...] = ()


def encode_log_record(record: LogRecord) -> bytes:
    """Return the record as a frame."""
    batches: list[dict[str, Any]] = []
    for batch in record.batches:
        if isinstance(batch, UpsertBatch):
            batches.append({"op": "upsert", **encode_rows(batch.rows)})
        else:
            kind = "str" if isinstance(batch.keys, tuple) else "int"
            batches.append(
                {"op": "delete", "kind": kind, "n": len(batch.keys), "keys": encode_keys(batch.keys)}
            )
    return encode_frame(
        MAGIC,
        pack(
            {
                "seq": record.seq,
                "epoch": record.epoch,
                "write_id": record.write_id,
                "kind": record.kind,
                "batches": batches,
            }
        ),
    )


def decode_log_record(data: bytes, where: str) -> LogRecord:
    """Return the record that the object `where` holds.

    Raises:
        CorruptData, UnsupportedVersion: it holds none that this version reads.
    """
    stored = unpack(decode_frame(data, MAGIC, where), where)
    with decoding(where):
        if stored["kind"] not in ("fence", "write"):
            raise CorruptData(f"{where}: record kind {stored['kind']!r}; it is fence or write")
        if stored["kind"] == "fence" and stored["batches"]:
            raise CorruptData(f"{where}: a fence holds {len(stored['batches'])} batches; it has none")
        return LogRecord(
            seq=natural(stored["seq"]),
            epoch=natural(stored["epoch"]),
            write_id=text(stored["write_id"]),
            kind=stored["kind"],
            batches=tuple(
                _batch(batch, f"{where}, batch {number}") for number, batch in enumerate(stored["batches"])
            ),
        )


def _batch(stored: Mapping[str, Any], where: str) -> UpsertBatch | DeleteBatch:
    with decoding(where):
        if stored["op"] == "upsert":
            return UpsertBatch(decode_rows(stored, where))
        if stored["op"] == "delete" and stored["kind"] in ("int", "str"):
            return DeleteBatch(decode_keys(stored["keys"], stored["kind"], natural(stored["n"]), where))
        raise CorruptData(f"{where}: operation {stored['op']!r} on {stored.get('kind')!r} keys is unknown")
