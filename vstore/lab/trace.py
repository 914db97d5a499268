"""Traces in files: msgpack, or Parquet where pyarrow is installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np

from vstore.cache import BlockKey
from vstore.errors import CorruptData, InvalidInput, MissingDependency
from vstore.lab.driver import QueryTrace
from vstore.lab.layouts import Placement
from vstore.types import Float32s, Int64s

FORMAT: Final = "vstore-lab-trace-1"


@dataclass(frozen=True, slots=True)
class Trace:
    """The queries of one run over one placement."""

    queries: tuple[QueryTrace, ...]
    sizes: Int64s
    """int64[U]: the bytes of each unit, so that a trace is not replayed over another layout."""
    placement: Placement | None = None
    """Where the units lie, of a collection's queries; the lab's own have that of their layout."""


def save(trace: Trace, path: str | Path) -> None:
    """Write a trace: Parquet, one row a query, where the name ends in .parquet; msgpack else.

    Raises:
        MissingDependency: Parquet without pyarrow.
    """
    path = Path(path)
    rows = [_to_row(query) for query in trace.queries]
    if path.suffix == ".parquet":
        pyarrow, parquet = _pyarrow()
        facts: dict[str, Any] = {"format": FORMAT, "sizes": trace.sizes.astype("<i8").tobytes()}
        facts |= {name: msgpack.packb(value) for name, value in _placed(trace).items()}
        table = pyarrow.Table.from_pylist(rows).replace_schema_metadata(facts)
        parquet.write_table(table, path)
        return
    facts = {"format": FORMAT, "sizes": trace.sizes.tolist(), "queries": rows} | _placed(trace)
    path.write_bytes(msgpack.packb(facts))


def load(path: str | Path) -> Trace:
    """Read what `save` wrote.

    Raises:
        CorruptData: the file is no trace.
        MissingDependency: Parquet without pyarrow.
    """
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            _, parquet = _pyarrow()
            table = parquet.read_table(path)
            metadata = table.schema.metadata or {}
            if metadata.get(b"format") != FORMAT.encode():
                raise CorruptData(f"{path}: no trace of this version; its format is not {FORMAT}")
            sizes = np.frombuffer(metadata[b"sizes"], "<i8").astype(np.int64)
            packed = metadata.get(b"placement")
            placed = None if packed is None else msgpack.unpackb(packed)
            return Trace(tuple(map(_from_row, table.to_pylist())), sizes, _placement(placed, sizes))
        stored: Any = msgpack.unpackb(path.read_bytes())
        if stored["format"] != FORMAT:
            raise CorruptData(f"{path}: format {stored['format']!r}; this version reads {FORMAT!r}")
        sizes = np.array(stored["sizes"], np.int64)
        placement = _placement(stored.get("placement"), sizes)
        return Trace(tuple(map(_from_row, stored["queries"])), sizes, placement)
    except (KeyError, TypeError, ValueError, IndexError, msgpack.UnpackException) as error:
        if isinstance(error, CorruptData):
            raise
        raise CorruptData(f"{path}: no trace: {error}") from error


def check_units(trace: Trace, sizes: Int64s) -> None:
    """Raise InvalidInput unless a trace was recorded over units of these sizes."""
    if not np.array_equal(trace.sizes, sizes):
        raise InvalidInput(
            f"the trace has {len(trace.sizes)} units of {int(trace.sizes.sum())} bytes and the layout "
            f"{len(sizes)} of {int(sizes.sum())}: replay it over the layout that it was recorded on"
        )


def record(queries: Sequence[QueryTrace], sizes: Int64s) -> Trace:
    """Return the trace of queries over units of these sizes."""
    return Trace(tuple(queries), sizes)


def _placed(trace: Trace) -> dict[str, Any]:
    """Return what a file says of where the units lie, beside their sizes; nothing where nothing is known."""
    if trace.placement is None:
        return {}
    keys = [list(key) for key in trace.placement.keys]
    return {"placement": {"starts": trace.placement.starts.tolist(), "keys": keys}}


def _placement(placed: Any, sizes: Int64s) -> Placement | None:
    if placed is None:
        return None
    starts = np.array(placed["starts"], np.int64)
    keys = tuple(BlockKey(*key) for key in placed["keys"])
    if not len(starts) == len(keys) == len(sizes):
        raise ValueError(f"{len(sizes)} units have {len(starts)} places and {len(keys)} names")
    return Placement({}, starts, sizes, keys)


def _to_row(query: QueryTrace) -> dict[str, Any]:
    return {
        "query": query.query,
        "traversal": query.traversal,
        "rounds": [units.tolist() for units in query.rounds],
        "stages": list(query.stages),
        "rows": query.rows.tolist(),
        "distances": query.distances.tolist(),
        "counters": dict(query.counters),
        "decisions": dict(query.decisions),
        "keys": list(query.keys),
        "live": [dict(served) for served in query.live],
    }


def _from_row(row: dict[str, Any]) -> QueryTrace:
    distances: Float32s = np.array(row["distances"], np.float32)
    return QueryTrace(
        row["query"],
        row["traversal"],
        [np.array(units, np.int64) for units in row["rounds"]],
        list(row["stages"]),
        np.array(row["rows"], np.int64),
        distances,
        _present(row["counters"]),
        _present(row["decisions"]),
        list(row.get("keys") or []),
        [dict(served) for served in row.get("live") or []],
    )


def _present(named: dict[str, Any]) -> dict[str, int]:
    """Return what a row has: Parquet gives every row every name."""
    return {name: value for name, value in named.items() if value is not None}


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependency("Parquet needs pyarrow: pip install 'vstore[parquet]'") from error
    return pyarrow, pyarrow.parquet
