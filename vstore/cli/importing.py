"""`vstore import`: rows from .npy, .jsonl and .parquet files, read in batches, never whole."""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import typer

from vstore.cli.connection import Place
from vstore.cli.output import Talker
from vstore.collection import Collection
from vstore.database import Database
from vstore.errors import CollectionNotFound, InvalidInput, MissingDependency, nearest
from vstore.progress import progress_of
from vstore.types import FIELD_TYPES, FieldType, Metric


class MetricChoice(StrEnum):
    """What `--metric` takes."""

    cosine = "cosine"
    l2 = "l2"
    dot = "dot"


@dataclass(frozen=True, slots=True)
class Keys:
    """The names under which a row keeps its id, vector and text."""

    id: str = "id"
    vector: str = "vector"
    text: str = "text"


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a file, as `Collection.upsert` takes them."""

    ids: Sequence[Any]
    vectors: Any
    attributes: list[dict[str, Any]] | None
    documents: list[str | None] | None


@dataclass(frozen=True, slots=True)
class Source:
    """An open file: its batches, and its number of rows where that is known before reading."""

    path: Path
    batches: Iterator[Batch]
    n_rows: int | None


def open_source(path: Path, keys: Keys, ids: Path | None, batch_rows: int) -> Source:
    """Open a file by its ending.

    Raises:
        BadParameter (exit code 2): an ending that vstore cannot read.
        InvalidInput: the file is not what its ending says.
        MissingDependency: .parquet without pyarrow.
    """
    ending = path.suffix.lower()
    if ids is not None and ending != ".npy":
        raise typer.BadParameter(f"--ids goes with a .npy file; {path.name} has ids of its own")
    if ending == ".npy":
        return open_npy(path, ids, batch_rows)
    if ending in (".jsonl", ".ndjson"):
        return Source(path, jsonl_batches(path, keys, batch_rows), None)
    if ending == ".parquet":
        return open_parquet(path, keys, batch_rows)
    raise typer.BadParameter(f"{path.name}: vstore reads .npy, .jsonl and .parquet files")


def open_npy(path: Path, ids: Path | None, batch_rows: int) -> Source:
    """Open a matrix float[n, dim], read through a memory map."""
    vectors = load_npy(path, mmap=True)
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        raise InvalidInput(
            f"{path} holds {vectors.dtype}{list(vectors.shape)}; vectors are a matrix [rows, dim] of numbers"
        )
    keys = np.arange(len(vectors)) if ids is None else load_npy(ids, mmap=False)
    if keys.shape != (len(vectors),):
        raise InvalidInput(
            f"{ids} holds {list(keys.shape)} ids for {len(vectors)} vectors; give one for each"
        )
    starts = range(0, len(vectors), batch_rows)
    batches = (
        Batch(
            keys[start : start + batch_rows].tolist(),
            np.array(vectors[start : start + batch_rows]),
            None,
            None,
        )
        for start in starts
    )
    return Source(path, batches, len(vectors))


def load_npy(path: Path, mmap: bool) -> Any:
    """Return the array of a .npy file, without pickle."""
    try:
        return np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"{path} is no .npy file of plain numbers or text (pickled objects are not read); "
            "write it with numpy.save"
        ) from error


def jsonl_batches(path: Path, keys: Keys, batch_rows: int) -> Iterator[Batch]:
    """Yield batches of a file of one JSON object a line; empty lines are skipped."""
    with open(path, encoding="utf-8") as file:
        for lines in chunks(enumerate(file, 1), batch_rows):
            rows = [parse_line(path, number, line) for number, line in lines if line.strip()]
            if rows:
                yield batch_of(rows, keys, str(path))


def chunks(items: Iterable[Any], n: int) -> Iterator[list[Any]]:
    """Yield lists of n items; itertools.batched came with Python 3.12."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, n)):
        yield chunk


def parse_line(path: Path, number: int, line: str) -> dict[str, Any]:
    """Return the object of one line."""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidInput(f"{path}, line {number}: no JSON ({error}); each line holds one object") from error
    if not isinstance(row, dict):
        raise InvalidInput(f"{path}, line {number}: {type(row).__name__}; each line holds one JSON object")
    return row


def batch_of(rows: Sequence[dict[str, Any]], keys: Keys, where: str) -> Batch:
    """Split rows into ids, vectors, attributes and documents.

    Raises:
        InvalidInput: a row without an id or a vector; the message names the nearest key.
    """
    for row in rows:
        for option, key in (("--id-key", keys.id), ("--vector-key", keys.vector)):
            if key not in row:
                raise InvalidInput(
                    f"{where}: a row has no {key!r}{nearest(key, row)} (has {', '.join(row) or 'nothing'}); "
                    f"{option} names the key"
                )
    taken = {keys.id, keys.vector, keys.text}
    attributes = [{name: value for name, value in row.items() if name not in taken} for row in rows]
    documents = [row.get(keys.text) for row in rows]
    return Batch(
        [row[keys.id] for row in rows],
        [row[keys.vector] for row in rows],
        attributes if any(attributes) else None,
        documents if any(text is not None for text in documents) else None,
    )


def open_parquet(path: Path, keys: Keys, batch_rows: int) -> Source:
    """Open a Parquet file."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingDependency(
            "reading Parquet needs pyarrow, which is not installed; run: pip install 'vstore[parquet]'"
        ) from error
    try:
        file = parquet.ParquetFile(path)
    except (OSError, arrow.ArrowException) as error:
        raise InvalidInput(f"{path} is no Parquet file: {error}") from error

    def batches() -> Iterator[Batch]:
        with file:
            for record_batch in file.iter_batches(batch_size=batch_rows):
                yield batch_of(record_batch.to_pylist(), keys, str(path))

    return Source(path, batches(), file.metadata.num_rows)


def parse_fields(written: Sequence[str] | None) -> dict[str, FieldType] | None:
    """Return the fields of `--field name=type`, or None where there is none.

    Raises:
        BadParameter (exit code 2): no "=", or a type that does not exist.
    """
    if not written:
        return None
    fields: dict[str, FieldType] = {}
    for one in written:
        name, equals, kind = one.partition("=")
        if not equals or kind not in FIELD_TYPES:
            raise typer.BadParameter(
                f"--field {one!r}: write name=type{nearest(kind, FIELD_TYPES)} ({', '.join(FIELD_TYPES)})"
            )
        fields[name] = kind
    return fields


def find_fields(rows: Sequence[Mapping[str, Any]] | None) -> dict[str, FieldType]:
    """Return the type of each attribute of a first batch: that of its values, nulls apart.

    Raises:
        InvalidInput: values that no field type holds together.
    """
    values: dict[str, list[Any]] = {}
    for row in rows or ():
        for name, value in row.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    return {name: find_type(name, of_name) for name, of_name in values.items()}


def find_type(name: str, values: Sequence[Any]) -> FieldType:
    """Return the field type that holds all the values; ints and floats together are floats."""
    kinds = {kind_of(value) for value in values}
    if kinds <= {"int", "float"} and kinds:
        return "int" if kinds == {"int"} else "float"
    # An empty list says nothing of its members.
    if kinds <= {"list", "list[str]"}:
        return "list[str]"
    if kinds == {"list", "list[int]"}:
        return "list[int]"
    if len(kinds) == 1:
        (kind,) = kinds
        if kind in FIELD_TYPES:
            return kind
    raise InvalidInput(
        f"attribute {name!r} holds {', '.join(sorted(kinds))}, which no field type holds; "
        f"name one with --field {name}=TYPE ({', '.join(FIELD_TYPES)}), or leave the key out of the file"
    )


def kind_of(value: Any) -> str:
    """Return the name of a value's kind; of a list, with that of its members."""
    if isinstance(value, list):
        members = {type(member).__name__ for member in value}
        return f"list[{members.pop()}]" if len(members) == 1 else "list" if not members else "mixed list"
    if isinstance(value, datetime.datetime | datetime.date):
        return "datetime"
    return type(value).__name__


def import_file(
    place: Place,
    name: str,
    source: Source,
    metric: Metric,
    fields: dict[str, FieldType] | None,
    flush: bool,
    talker: Talker,
) -> dict[str, Any]:
    """Upsert every batch of a file and return what was done.

    Raises:
        InvalidInput, FieldError: a row that the collection refuses. The batches before it are stored.
    """
    started = perf_counter()
    first = next(source.batches, None)
    if first is None:
        raise InvalidInput(f"{source.path} has no rows; nothing was imported")
    with place.open(must_exist=False) as db:
        collection, created = open_or_create(db, name, first, metric, fields, talker)
        n_rows = 0
        with progress_of(True, f"Importing {source.path.name}") as progress:
            for batch in itertools.chain([first], source.batches):
                n_rows += collection.upsert(
                    batch.ids, batch.vectors, batch.attributes, batch.documents, progress=False
                )
                progress(n_rows, source.n_rows or n_rows)
        if flush:
            talker.say(f"building the index of {name}")
            with progress_of(True, "Building") as progress:
                collection.flush(progress)
        seconds = perf_counter() - started
        talker.say(
            f"{source.path.name}: {n_rows:,} rows into {name}, now {len(collection):,} [{seconds:.1f} s]"
        )
        return {
            "file": str(source.path),
            "collection": name,
            "created": created,
            "n_imported": n_rows,
            "n_rows": len(collection),
            "seconds": round(seconds, 3),
        }


def open_or_create(
    db: Database, name: str, first: Batch, metric: Metric, fields: dict[str, FieldType] | None, talker: Talker
) -> tuple[Collection, bool]:
    """Return the collection and whether it had to be made, with the dimension of the first vector."""
    try:
        return db.collection(name), False
    except CollectionNotFound:
        chosen = find_fields(first.attributes) if fields is None else fields
        dim = len(first.vectors[0])
        collection = db.create_collection(name, dim=dim, metric=metric, fields=chosen)
        listed = ", ".join(f"{field}: {kind}" for field, kind in chosen.items()) or "none"
        talker.say(f"created collection {name}: dim {dim}, {metric}, fields {listed}")
        return collection, True
