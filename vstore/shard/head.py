"""The head of a shard: what one read brings before anything else."""

from __future__ import annotations

from dataclasses import dataclass

import msgpack
import numpy as np

from vstore.errors import CorruptData
from vstore.format.frame import decoding, natural, unpack
from vstore.format.shard_file import ShardFile
from vstore.shard import sections
from vstore.shard.calibration.codec import decode_calibration
from vstore.shard.calibration.curves import Calibration
from vstore.traverse.base import SketchParams
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
    calibration: Calibration | None = None
    """What was measured when the shard was built; None in shards without it."""
    sketch_params: SketchParams | None = None
    """How its rows are sketched; None in shards without sketches."""
    column_block_rows: int = 0
    n_lost: int = 0
    """Rows that died in the graphs that this one was made from, since one was built whole."""
    """Rows of a block of a column; 0 where a column is one block, as it once was."""

    @property
    def zone_starts(self) -> Int64s:
        """int64[Z]: the first row of each zone of a column: where a cluster or a block of it begins."""
        return zone_starts(self.cluster_offsets, self.column_block_rows)

    def empty_tables(self) -> BlockTables:
        """Return block tables of this shard's shape with nothing resident."""
        return BlockTables(self.n, self.M0, self.code_params.row_bytes, self.block_rows.bit_length() - 1)

    def block_of(self, block: int) -> int:
        """Return how many rows a block of lists or codes holds: the last may be shorter."""
        return min(self.block_rows, self.n - block * self.block_rows)


def zone_starts(cluster_offsets: Int64s, column_block_rows: int) -> Int64s:
    """Return the first row of each zone (int64[Z], ascending) of clusters of at least one row."""
    n = int(cluster_offsets[-1])
    blocks = np.arange(0, n, column_block_rows or n, dtype=np.int64)
    starts = np.unique(np.concatenate([cluster_offsets[:-1], blocks]))
    return starts[starts < n]


def encode_meta(
    *,
    n: int,
    dim: int,
    metric: Metric,
    M0: int,
    block_rows: int,
    payload_block_rows: int,
    column_block_rows: int,
    fields: tuple[tuple[str, FieldType], ...],
    n_lost: int = 0,
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
            "column_block_rows": column_block_rows,
            "n_lost": n_lost,
            "vector_block_rows": sections.vector_block_rows(dim),
            "fields": [list(field) for field in fields],
        }
    )
    return packed


def decode_head(data: bytes, where: str, start: int | None = None) -> ShardHead:
    """Return the head of the shard that `where` names; `start` is where in the file it begins, if known.

    Raises:
        CorruptData, UnsupportedVersion: the bytes are not a head that this version reads.
    """
    file = ShardFile.from_head(data, where, start)
    with decoding(where):
        meta = unpack(file.head_section(sections.META), where)
        n, dim = natural(meta["n"]), natural(meta["dim"])
        offsets = np.frombuffer(file.head_section(sections.CLUSTERS), dtype="<i8")
        centroids = np.frombuffer(file.head_section(sections.CENTROIDS), dtype="<f4")
        params = unpack(file.head_section(sections.CODE_PARAMS), where)
        arrays = {name: np.frombuffer(raw, dtype="<f4").copy() for name, raw in params["arrays"].items()}
        head = ShardHead(
            file=file,
            n=n,
            dim=dim,
            metric=meta["metric"],
            M0=natural(meta["M0"]),
            block_rows=natural(meta["block_rows"]),
            vector_block_rows=natural(meta["vector_block_rows"]),
            payload_block_rows=natural(meta["payload_block_rows"]),
            fields=tuple((name, kind) for name, kind in meta["fields"]),
            code_params=CodeParams.from_arrays(params["bits"], meta["metric"], arrays),
            centroids=np.ascontiguousarray(centroids.reshape(len(offsets) - 1, -1), dtype=np.float32),
            cluster_offsets=np.ascontiguousarray(offsets, dtype=np.int64),
            size_bytes=len(data),
            column_block_rows=natural(meta.get("column_block_rows", 0)),
            n_lost=natural(meta.get("n_lost", 0)),
            calibration=(
                decode_calibration(file.head_section(sections.CALIBRATION), where)
                if file.has_head_section(sections.CALIBRATION)
                else None
            ),
            sketch_params=_sketch_params(file, where),
        )
    _check(head, where)
    return head


def _check(head: ShardHead, where: str) -> None:
    """Raise CorruptData where the head contradicts itself: kernels read by the numbers that stand here."""
    offsets = head.cluster_offsets
    if offsets[0] != 0 or offsets[-1] != head.n or (offsets[1:] < offsets[:-1]).any():
        raise CorruptData(f"{where}: the cluster offsets do not cover the {head.n} rows in order")
    space_dim = head.dim + (head.metric == "dot")
    if head.centroids.shape[1] != space_dim or head.code_params.d != head.dim:
        raise CorruptData(
            f"{where}: centroids of {head.centroids.shape[1]} and codes of {head.code_params.d} dimensions; "
            f"expected {space_dim} and {head.dim}"
        )
    if head.M0 < 2 or head.M0 % 2 or head.block_rows & (head.block_rows - 1):
        raise CorruptData(
            f"{where}: M0 {head.M0} is not even, or block_rows {head.block_rows} is no power of 2"
        )
    sketched = head.sketch_params
    if (sketched is None) != (sections.SKETCHES not in head.file.sections):
        raise CorruptData(f"{where}: of the sketches and their parameters there is one without the other")
    if sketched and (sketched.block_rows & (sketched.block_rows - 1) or not 0 <= sketched.error < np.inf):
        raise CorruptData(
            f"{where}: sketches in blocks of {sketched.block_rows} rows, which is no power of 2, "
            f"or of error {sketched.error}, which is not finite"
        )
    column_rows = head.column_block_rows or head.n
    columns = [(name, column_rows) for name in head.file.sections if name.startswith(("column:", "bloom:"))]
    for name, rows in (
        *columns,
        (sections.LISTS, head.block_rows),
        (sections.CODES, head.block_rows),
        (sections.VECTORS, head.vector_block_rows),
        (sections.PAYLOAD, head.payload_block_rows),
        (sections.KEYS, sections.KEY_BLOCK_ROWS),
        *([] if sketched is None else [(sections.SKETCHES, sketched.block_rows)]),
    ):
        if rows == 0 or head.file.n_blocks(name) != -(-head.n // rows):
            raise CorruptData(
                f"{where}: section {name!r} has {head.file.n_blocks(name)} blocks; "
                f"{head.n} rows in blocks of {rows} need another number"
            )


def _sketch_params(file: ShardFile, where: str) -> SketchParams | None:
    if not file.has_head_section(sections.SKETCH_PARAMS):
        return None
    stored = unpack(file.head_section(sections.SKETCH_PARAMS), where)
    return SketchParams(natural(stored["block_rows"]), float(stored["error"]))


def encode_sketch_params(params: SketchParams) -> bytes:
    """Return the bytes of the SKETCH_PARAMS section."""
    packed: bytes = msgpack.packb(params._asdict())
    return packed


def encode_code_params(params: CodeParams) -> bytes:
    """Return the bytes of the CODE_PARAMS section."""
    arrays = {name: array.astype("<f4").tobytes() for name, array in params.to_arrays().items()}
    packed: bytes = msgpack.packb({"bits": params.bits, "arrays": arrays})
    return packed
