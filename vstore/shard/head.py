"""The head of a shard: what one read brings before anything else."""

from __future__ import annotations

from dataclasses import dataclass

import msgpack
import numpy as np

from vstore.errors import CorruptData
from vstore.format.shard_file import ShardFile
from vstore.shard import sections
from vstore.types import FieldType, Float32s, Int64s, Metric
from vstore_kernels.codes import CodeParams
from vstore_kernels.search import BlockTables


@dataclass(frozen=True, slots=True)
class ShardHead:
    """Directory of the file, and the arrays that every query needs.

    `centroids` is float32[K, d'], `cluster_offsets` int64[K + 1]. `fields` are those that the shard was
    built with, in the order of its payload rows.
    """

    file: ShardFile
    n: int
    dim: int
    metric: Metric
    M0: int
    block_rows: int
    vector_block_rows: int
    payload_block_rows: int
    fields: tuple[tuple[str, FieldType], ...]
    code_params: CodeParams
    centroids: Float32s
    cluster_offsets: Int64s
    size_bytes: int

    def empty_tables(self) -> BlockTables:
        """Return block tables of this shard's shape with nothing resident."""
        return BlockTables(self.n, self.M0, self.code_params.row_bytes, self.block_rows.bit_length() - 1)

    def block_of(self, block: int) -> int:
        """Return how many rows a block of lists or codes holds: the last may be shorter."""
        return min(self.block_rows, self.n - block * self.block_rows)


def encode_meta(
    *,
    n: int,
    dim: int,
    metric: Metric,
    M0: int,
    block_rows: int,
    payload_block_rows: int,
    fields: tuple[tuple[str, FieldType], ...],
) -> bytes:
    """Return the bytes of the META section."""
    packed: bytes = msgpack.packb(
        {
            "n": n,
            "dim": dim,
            "metric": metric,
            "M0": M0,
            "block_rows": block_rows,
            "payload_block_rows": payload_block_rows,
            "vector_block_rows": sections.vector_block_rows(dim),
            "fields": [list(field) for field in fields],
        }
    )
    return packed


def decode_head(data: bytes, where: str) -> ShardHead:
    """Return the head of the shard that `where` names.

    Raises:
        CorruptData, UnsupportedVersion: the bytes are not a head that this version reads.
    """
    file = ShardFile.from_head(data, where)
    try:
        meta = msgpack.unpackb(file.head_section(sections.META))
        n, dim = int(meta["n"]), int(meta["dim"])
        offsets = np.frombuffer(file.head_section(sections.CLUSTERS), dtype="<i8")
        centroids = np.frombuffer(file.head_section(sections.CENTROIDS), dtype="<f4")
        params = msgpack.unpackb(file.head_section(sections.CODE_PARAMS))
        arrays = {name: np.frombuffer(raw, dtype="<f4").copy() for name, raw in params["arrays"].items()}
        head = ShardHead(
            file=file,
            n=n,
            dim=dim,
            metric=meta["metric"],
            M0=int(meta["M0"]),
            block_rows=int(meta["block_rows"]),
            vector_block_rows=int(meta["vector_block_rows"]),
            payload_block_rows=int(meta["payload_block_rows"]),
            fields=tuple((name, kind) for name, kind in meta["fields"]),
            code_params=CodeParams.from_arrays(params["bits"], meta["metric"], arrays),
            centroids=np.ascontiguousarray(centroids.reshape(len(offsets) - 1, -1), dtype=np.float32),
            cluster_offsets=np.ascontiguousarray(offsets, dtype=np.int64),
            size_bytes=len(data),
        )
    except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
        if isinstance(error, CorruptData):
            raise
        raise CorruptData(f"{where}: the head does not decode: {error}") from error
    if (
        head.cluster_offsets[0] != 0
        or head.cluster_offsets[-1] != n
        or (np.diff(head.cluster_offsets) < 0).any()
    ):
        raise CorruptData(f"{where}: the cluster offsets do not cover the {n} rows in order")
    return head


def encode_code_params(params: CodeParams) -> bytes:
    """Return the bytes of the CODE_PARAMS section."""
    arrays = {name: array.astype("<f4").tobytes() for name, array in params.to_arrays().items()}
    packed: bytes = msgpack.packb({"bits": params.bits, "arrays": arrays})
    return packed
