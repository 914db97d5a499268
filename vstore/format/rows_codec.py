"""Keys, the key index, documents and whole row batches as bytes."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from vstore.errors import CorruptData
from vstore.format.column_codec import decode_column, encode_column
from vstore.format.frame import decoding, natural, pack, unpack
from vstore.format.rows import RowBatch
from vstore.types import Document, IdKind, Int64s

Keys = Int64s | tuple[str, ...]


def hash_keys(keys: Keys) -> npt.NDArray[np.uint64]:
    """Return uint64[n]: splitmix64's finaliser of int keys (Steele et al. 2014), BLAKE2b-64 of str keys."""
    if isinstance(keys, np.ndarray):
        z = keys.astype(np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: npt.NDArray[np.uint64] = z ^ (z >> np.uint64(31))
        return mixed
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def encode_keys(keys: Keys) -> bytes:
    """Return int keys as raw little-endian int64, str keys as a msgpack list."""
    return keys.astype("<i8").tobytes() if isinstance(keys, np.ndarray) else pack(list(keys))


def decode_keys(data: bytes, kind: IdKind, n: int, where: str) -> Keys:
    """Return n keys.

    Raises:
        CorruptData: another number of them, or no keys at all.
    """
    if kind == "int":
        if len(data) != 8 * n:
            raise CorruptData(f"{where}: {len(data)} bytes of int keys; {n} rows need {8 * n}")
        return np.frombuffer(data, dtype="<i8").astype(np.int64)
    keys = unpack(data, where)
    if not isinstance(keys, list) or len(keys) != n or not all(isinstance(key, str) for key in keys):
        raise CorruptData(f"{where}: not a list of {n} str keys")
    return tuple(keys)


def encode_rows(rows: RowBatch) -> dict[str, Any]:
    """Return a batch as a msgpack-able map."""
    return {
        "kind": rows.id_kind,
        "n": rows.n,
        "keys": encode_keys(rows.keys),
        "dim": int(rows.vectors.shape[1]),
        "vectors": np.ascontiguousarray(rows.vectors, dtype="<f4").tobytes(),
        "columns": {name: encode_column(column) for name, column in rows.columns.items()},
        "documents": None if rows.documents is None else list(rows.documents),
    }


def decode_rows(stored: Any, where: str) -> RowBatch:
    """Return the batch of a map that `encode_rows` made.

    Raises:
        CorruptData: parts are missing or disagree on the number of rows.
    """
    with decoding(where):
        n, dim, kind = natural(stored["n"]), natural(stored["dim"]), _id_kind(stored["kind"], where)
        vectors = np.frombuffer(stored["vectors"], dtype="<f4").astype(np.float32)
        if vectors.size != n * dim:
            raise CorruptData(f"{where}: {vectors.size} components; {n} vectors of {dim} need {n * dim}")
        columns = {
            str(name): decode_column(data, f"{where}, column {name!r}")
            for name, data in stored["columns"].items()
        }
        documents = stored["documents"]
        if documents is not None:
            documents = tuple(_document(document, where) for document in documents)
        batch = RowBatch(
            decode_keys(stored["keys"], kind, n, where),
            kind,
            vectors.reshape(n, dim),
            columns,
            documents,
        )
        if any(column.n != n for column in columns.values()) or (
            documents is not None and len(documents) != n
        ):
            raise CorruptData(f"{where}: columns or documents are not of {n} rows")
    return batch


def _id_kind(kind: Any, where: str) -> IdKind:
    if kind not in ("int", "str"):
        raise CorruptData(f"{where}: id kind {kind!r}; it is int or str")
    return "int" if kind == "int" else "str"


def _document(document: Any, where: str) -> Document | None:
    if document is None:
        return None
    if (
        not isinstance(document, dict)
        or not set(document) <= {"text", "image"}
        or not isinstance(document.get("text", ""), str)
        or not isinstance(document.get("image", b""), (str, bytes))
    ):
        raise CorruptData(f"{where}: a document is neither null nor a map of text and image")
    return document
