"""Rows to a shard file: cluster order, graph, codes, and the sections that hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from vstore.errors import InvalidInput
from vstore.format.columns import take_column
from vstore.format.frame import pack
from vstore.format.manifest import ShardEntry
from vstore.format.rows import RowBatch
from vstore.format.rows_codec import encode_keys, hash_keys
from vstore.format.shard_file import ShardFileWriter
from vstore.settings import IndexSettings
from vstore.shard import sections
from vstore.shard.calibration import Calibration, n_held_out
from vstore.shard.calibration.codec import encode_calibration
from vstore.shard.calibration.trial import CodeTrial
from vstore.shard.columns import add_column
from vstore.shard.head import encode_code_params, encode_meta, encode_sketch_params
from vstore.shard.payload import payload_block_rows, payload_blocks
from vstore.shard.regraph import OldGraph, extended_hnsw
from vstore.shard.sketches import Sketcher
from vstore.shard.space import to_space
from vstore.shard.threads import threads_for
from vstore.storage.upload import Sink
from vstore.types import Float32s, Int32s, Int64s, Schema, UInt8s
from vstore_kernels import ahead, build, clusters, lists
from vstore_kernels.codes import CodeParams

Progress = Callable[[int, int], None]


class ShardBuilder:
    """Builds shards with a number of threads; the result does not depend on how many.

    Args:
        n_threads: threads for clusters and graph.
        column_block_rows: rows of a block of a column; default: sections.COLUMN_BLOCK_ROWS.
    """

    def __init__(self, n_threads: int, column_block_rows: int | None = None) -> None:
        self._n_threads = n_threads
        self._column_block_rows = column_block_rows or sections.COLUMN_BLOCK_ROWS

    def __call__(
        self,
        rows: RowBatch,
        schema: Schema,
        index: IndexSettings,
        *,
        shard_id: str,
        key: str,
        progress: Progress | None = None,
        old: OldGraph | None = None,
        sink: Sink | None = None,
    ) -> tuple[ShardEntry, bytes]:
        """Return the manifest entry and the bytes of a shard of these rows.

        Args:
            rows: at least one; keys are unique.
            schema: the collection's; every field has a column in `rows`.
            index: how to build.
            shard_id: unique.
            key: the object's name.
            progress: called with (rows in the graph, rows).
            old: a graph of the first of the rows, to begin with.
            sink: takes the bytes as they are made; none are returned then.

        Raises:
            InvalidInput: no rows.
        """
        if rows.n == 0:
            raise InvalidInput("a shard has at least one row")
        ahead.begin()
        space = to_space(rows.vectors, schema.metric)
        n_threads = threads_for(rows.n, self._n_threads)
        order = clusters.cluster_order(space, index.cluster_rows, index.seed, n_threads)
        places = np.argsort(order.order)
        rows = _reordered(rows, order.order)
        # Under l2 the space is the vectors: one copy of them serves.
        space = rows.vectors if schema.metric == "l2" else np.ascontiguousarray(space[order.order])
        trial = CodeTrial(rows.vectors, space, schema.metric, order, index, self._n_threads)
        graph, n_lost = self._graph(space, index, progress, trial, old, places)
        del space
        params, encoded = trial.codes()
        fields = tuple(schema.fields.items())
        payload_rows = payload_block_rows(rows)
        writer = ShardFileWriter(sink)
        column_rows = self._column_block_rows
        _add_head(
            writer, schema, index, rows.n, payload_rows, column_rows, order, params, trial.calibration, n_lost
        )
        for name, _ in fields:
            add_column(writer, name, rows.columns[name], column_rows, order.offsets)
        writer.add(sections.UPPER, [_upper(graph, encoded)])
        writer.add(sections.LISTS, _list_blocks(graph.neighbors, index.block_rows))
        # Codes and float vectors are noise to zstd: compressing them costs time and saves nothing.
        writer.add(sections.CODES, _row_blocks(encoded, index.block_rows), compress=False)
        if encoded.nbytes > sections.SKETCHED_CODE_BYTES:
            sketcher = Sketcher(rows.vectors, order.centroids, order.offsets, schema.metric)
            writer.add_to_head(sections.SKETCH_PARAMS, encode_sketch_params(sketcher.params))
            writer.add(sections.SKETCHES, sketcher.blocks(), compress=False)
        vectors = np.ascontiguousarray(rows.vectors, dtype="<f4").view(np.uint8)
        writer.add(
            sections.VECTORS, _row_blocks(vectors, sections.vector_block_rows(schema.dim)), compress=False
        )
        writer.add(sections.PAYLOAD, payload_blocks(rows, fields, payload_rows))
        writer.add(sections.KEYS, _key_blocks(rows))
        writer.add(sections.KEY_INDEX, [_key_index(rows)], compress=False)
        data, head, extents = writer.finish()
        return ShardEntry(shard_id, key, writer.size_bytes, rows.n, head, extents), data

    def _graph(
        self,
        space: Float32s,
        index: IndexSettings,
        progress: Progress | None,
        trial: CodeTrial,
        old: OldGraph | None,
        places: Int64s,
    ) -> tuple[build.HNSWGraph, int]:
        """Return the graph, and how many rows died in what it was made from since it was built whole."""
        wanted = n_held_out(len(space)) if trial.wanted else 0
        if old is not None:
            graph = extended_hnsw(
                space,
                old,
                places[: len(old.rows)],
                ef_construction=index.ef_construction,
                seed=index.seed,
                n_threads=self._n_threads,
                progress=progress,
                n_held_out=wanted,
                on_prefix=trial.measure,
            )
            if graph is not None:
                return graph, old.n_lost
        whole = build.build_hnsw(
            space,
            index.M,
            index.ef_construction,
            index.seed,
            self._n_threads,
            progress,
            n_held_out=wanted,
            on_prefix=trial.measure,
        )
        return whole, 0


def _add_head(
    writer: ShardFileWriter,
    schema: Schema,
    index: IndexSettings,
    n: int,
    payload_rows: int,
    column_rows: int,
    order: clusters.ClusterOrder,
    params: CodeParams,
    calibration: Calibration | None,
    n_lost: int,
) -> None:
    writer.add_to_head(
        sections.META,
        encode_meta(
            n=n,
            dim=schema.dim,
            metric=schema.metric,
            M0=2 * index.M,
            block_rows=index.block_rows,
            payload_block_rows=payload_rows,
            column_block_rows=column_rows,
            fields=tuple(schema.fields.items()),
            n_lost=n_lost,
        ),
    )
    writer.add_to_head(sections.CENTROIDS, order.centroids.astype("<f4").tobytes())
    writer.add_to_head(sections.CLUSTERS, order.offsets.astype("<i8").tobytes())
    writer.add_to_head(sections.CODE_PARAMS, encode_code_params(params))
    if calibration is not None:
        writer.add_to_head(sections.CALIBRATION, encode_calibration(calibration))


def _reordered(rows: RowBatch, order: Int64s) -> RowBatch:
    keys = (
        rows.keys[order] if isinstance(rows.keys, np.ndarray) else tuple(rows.keys[i] for i in order.tolist())
    )
    documents = None if rows.documents is None else [rows.documents[i] for i in order.tolist()]
    columns = {name: take_column(column, order) for name, column in rows.columns.items()}
    return RowBatch(keys, rows.id_kind, np.ascontiguousarray(rows.vectors[order]), columns, documents)


def _list_blocks(neighbors: Int32s, block_rows: int) -> Iterator[bytes]:
    for start in range(0, len(neighbors), block_rows):
        yield lists.encode_lists(np.ascontiguousarray(neighbors[start : start + block_rows]), start).tobytes()


def _row_blocks(rows: UInt8s, block_rows: int) -> Iterator[bytes]:
    for start in range(0, len(rows), block_rows):
        yield rows[start : start + block_rows].tobytes()


def _key_blocks(rows: RowBatch) -> Iterator[bytes]:
    for start in range(0, rows.n, sections.KEY_BLOCK_ROWS):
        yield encode_keys(rows.keys[start : start + sections.KEY_BLOCK_ROWS])


def _key_index(rows: RowBatch) -> bytes:
    hashes = hash_keys(rows.keys)
    order = np.argsort(hashes, kind="stable")
    return hashes[order].astype("<u8").tobytes() + order.astype("<i4").tobytes()


def _upper(graph: build.HNSWGraph, encoded: UInt8s) -> bytes:
    return pack(
        {
            "nodes": graph.upper_nodes.astype("<i4").tobytes(),
            "rows": graph.upper_rows.astype("<i8").tobytes(),
            "links": graph.upper_links.astype("<i4").tobytes(),
            "codes": encoded[graph.upper_nodes].tobytes(),
            "entry_rank": graph.entry_rank,
            "max_level": graph.max_level,
        }
    )
