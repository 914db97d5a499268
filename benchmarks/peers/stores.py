"""Adapters of embedded stores: Zvec, Qdrant Edge and LanceDB. Filters are evaluated inside the clock."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .base import EF_CONSTRUCTION, Columns, Floats, Ids, M, Param, Passing, Peer, folder_bytes, pad


class Zvec(Peer):
    """Zvec, float32."""

    package = "zvec"
    filters = True
    note = "query_internal_ids, one query a call; inverted indexes on the attributes"
    quantized = False

    def build(self, points: Floats, columns: Columns, threads: int) -> None:
        import zvec

        self.zvec = zvec
        zvec.init(query_threads=1, optimize_threads=threads)
        kind = zvec.QuantizeType.INT8 if self.quantized else zvec.QuantizeType.UNDEFINED
        index = zvec.HnswIndexParam(
            metric_type=zvec.MetricType.L2,
            m=2 * M,
            ef_construction=EF_CONSTRUCTION,
            quantize_type=kind,
            use_contiguous_memory=True,
        )
        schema = zvec.CollectionSchema(
            name="rows",
            fields=[
                zvec.FieldSchema(name, zvec.DataType.INT32, index_param=zvec.InvertIndexParam())
                for name in columns
            ],
            vectors=[
                zvec.VectorSchema("vector", zvec.DataType.VECTOR_FP32, points.shape[1], index_param=index)
            ],
        )
        path = str(self.folder / "store")
        collection = zvec.create_and_open(path=path, schema=schema)
        values = {name: column.tolist() for name, column in columns.items()}
        for start in range(0, len(points), 500):
            collection.insert(
                [
                    zvec.Doc(
                        id=str(row),
                        vectors={"vector": points[row].tolist()},
                        fields={name: column[row] for name, column in values.items()},
                    )
                    for row in range(start, min(len(points), start + 500))
                ]
            )
        collection.optimize()
        collection.flush()
        collection.close()
        self.collection = zvec.open(path, zvec.CollectionOption(read_only=True))
        names = self.collection.resolve_internal_ids(list(range(len(points))))
        # The last place answers for -1.
        self.rows = np.array([-1 if name is None else int(name) for name in names] + [-1])

    def prepare(self, passing: Passing) -> Any:
        return passing.sql()

    def search(self, queries: Floats, k: int, param: Param, handle: Any) -> Ids:
        options = {"is_using_refiner": True} if self.quantized else {}
        chosen = self.zvec.HnswQueryParam(ef=param["ef"], **options)
        found = (
            self.collection.query_internal_ids(
                self.zvec.Query("vector", vector=query, param=chosen), topk=k, filter=handle
            )
            for query in queries
        )
        return self.rows[pad(found, k)]

    def size_bytes(self) -> int | None:
        return folder_bytes(self.folder)


class ZvecInt8(Zvec):
    """Zvec with 8-bit codes and its refiner."""

    note = "as zvec-fp32, 8-bit codes re-scored"
    quantized = True


class QdrantEdge(Peer):
    """Qdrant's engine in the process: payload indexes and filterable HNSW."""

    package = "qdrant-edge-py"
    filters = True
    note = "search, one query a call; payload indexes, its own switch to a scan"
    quantized = False
    acorn = False
    full_scan_threshold = 10_000

    def config(self, threads: int) -> Any:
        """Return the shard's configuration."""
        q = self.qdrant
        codes = None
        if self.quantized:
            codes = q.ScalarQuantizationConfig(type=q.ScalarType.Int8, quantile=0.99, always_ram=True)
        return q.EdgeConfig(
            vectors=q.EdgeVectorParams(size=self.dim, distance=q.Distance.Euclid, on_disk=False),
            hnsw_config=q.HnswIndexConfig(
                m=M,
                ef_construct=EF_CONSTRUCTION,
                full_scan_threshold=self.full_scan_threshold,
                max_indexing_threads=os.cpu_count(),
            ),
            quantization_config=codes,
            max_search_threads=threads,
            optimizers=q.EdgeOptimizersConfig(indexing_threshold=100, default_segment_number=1),
        )

    def build(self, points: Floats, columns: Columns, threads: int) -> None:
        import qdrant_edge as q

        self.qdrant, self.dim, self.path = q, points.shape[1], str(self.folder / "shard")
        os.mkdir(self.path)
        shard = q.EdgeShard.create(self.path, self.config(threads))
        for name in columns:
            shard.update(q.UpdateOperation.create_field_index(name, q.PayloadSchemaType.Integer))
        values = {name: column.tolist() for name, column in columns.items()}
        for start in range(0, len(points), 2000):
            rows = range(start, min(start + 2000, len(points)))
            made = [
                q.Point(
                    id=row,
                    vector=points[row].tolist(),
                    payload={name: column[row] for name, column in values.items()},
                )
                for row in rows
            ]
            shard.update(q.UpdateOperation.upsert_points(made))
        shard.optimize()
        shard.flush()
        self.shard = shard

    def one_thread(self) -> None:
        self.shard.flush()
        self.shard.close()
        self.shard = self.qdrant.EdgeShard.load(self.path, self.config(1))

    def prepare(self, passing: Passing) -> Any:
        q = self.qdrant
        must, must_not = [], []
        for field, op, value in passing.clauses:
            if op == "in":
                must.append(q.FieldCondition(key=field, match=q.MatchAny(list(value))))
            else:
                held = q.FieldCondition(key=field, range=q.RangeFloat(lte=float(value)))
                (must if op == "le" else must_not).append(held)
        return q.Filter(must=must or None, must_not=must_not or None)

    def search(self, queries: Floats, k: int, param: Param, handle: Any) -> Ids:
        q = self.qdrant
        acorn = None
        if self.acorn and handle is not None:
            acorn = q.AcornSearchParams(enable=True, max_selectivity=0.4)
        codes = q.QuantizationSearchParams(rescore=True, oversampling=1.0) if self.quantized else None
        chosen = q.SearchParams(hnsw_ef=param["ef"], acorn=acorn, quantization=codes)
        found = []
        for query in queries.tolist():
            asked = q.SearchRequest(
                query=q.Query.Nearest(query),
                limit=k,
                filter=handle,
                params=chosen,
                with_payload=False,
                with_vector=False,
            )
            found.append([point.id for point in self.shard.search(asked)])
        return pad(found, k)

    def size_bytes(self) -> int | None:
        return folder_bytes(self.folder)


class QdrantEdgeInt8(QdrantEdge):
    """Qdrant Edge with 8-bit codes, re-scored."""

    note = "as qdrant, 8-bit codes re-scored"
    quantized = True


class QdrantEdgeAcorn(QdrantEdge):
    """Qdrant Edge with its ACORN search for filters."""

    note = "as qdrant, AcornSearchParams for filtered queries"
    acorn = True
    full_scan_threshold = 1_000


class LanceDB(Peer):
    """LanceDB's IVF_HNSW_SQ in one partition, as strong as it goes at this size."""

    package = "lancedb"
    filters = True
    note = "search, one query a call; bitmap indexes on the attributes, prefilter, refine_factor 2"

    def params(self, filtered: bool) -> list[Param]:
        return [{"ef": ef} for ef in (20, 40, 96, 256, 512)]

    def build(self, points: Floats, columns: Columns, threads: int) -> None:
        import lancedb
        import pyarrow as pa

        database = lancedb.connect(str(self.folder / "store"))
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(points.ravel()), points.shape[1])
        rows = pa.table({"row": np.arange(len(points)), **columns, "vector": vectors})
        self.table = database.create_table("rows", rows)
        self.table.create_index(
            metric="l2",
            vector_column_name="vector",
            index_type="IVF_HNSW_SQ",
            num_partitions=1,
            m=M,
            ef_construction=EF_CONSTRUCTION,
        )
        for name in columns:
            self.table.create_scalar_index(name, index_type="BITMAP")

    def prepare(self, passing: Passing) -> Any:
        return passing.sql()

    def search(self, queries: Floats, k: int, param: Param, handle: Any) -> Ids:
        found = []
        for query in queries:
            asked = self.table.search(query).limit(k).select(["row", "_distance"])
            if handle is not None:
                asked = asked.where(handle, prefilter=True)
            asked = asked.nprobes(1).ef(max(param["ef"], 2 * k)).refine_factor(2)
            found.append(asked.to_arrow()["row"].to_pylist())
        return pad(found, k)

    def size_bytes(self) -> int | None:
        return folder_bytes(self.folder)
