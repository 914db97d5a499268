"""Adapters of in-memory libraries: hnswlib, usearch, glass, SVS, rabitqlib, PyNNDescent, and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import EF_CONSTRUCTION, Columns, Floats, Ids, M, Param, Passing, Peer, folder_bytes, pad


class NumpyExact(Peer):
    """The exact product over rows that were gathered before the clock starts: a floor, not a store."""

    package = "numpy"
    filters = True
    note = "exact, one product for 100 queries; passing rows gathered outside the clock"

    def params(self, filtered: bool) -> list[Param]:
        return [{"batch": 100}]

    def build(self, points: Floats, columns: Columns, threads: int) -> None:
        self.everything = (points, np.einsum("ij,ij->i", points, points), np.arange(len(points)))

    def prepare(self, passing: Passing) -> Any:
        rows = np.flatnonzero(passing.mask)
        return self.everything[0][rows], self.everything[1][rows], rows

    def search(self, queries: Floats, k: int, param: Param, handle: Any) -> Ids:
        points, norms, rows = self.everything if handle is None else handle
        k = min(k, len(rows))
        found = np.full((len(queries), k), -1, np.int64)
        for start in range(0, len(queries), param["batch"]):
            scores = norms - 2 * (queries[start : start + param["batch"]] @ points.T)
            if k < len(rows):
                best = np.argpartition(scores, k - 1, axis=1)[:, :k]
            else:
                best = np.broadcast_to(np.arange(k), (len(scores), k))
            found[start : start + len(best)] = rows[best]
        return found


class Hnswlib(Peer):
    """Malkov & Yashunin's own library."""

    package = "hnswlib"
    filters = True
    note = "knn_query over a batch; a filter is a Python callable per visited node"

    def build(self, points: Floats, columns: Columns, threads: int) -> None:
        import hnswlib

        self.index = hnswlib.Index(space="l2", dim=points.shape[1])
        self.index.init_index(max_elements=len(points), ef_construction=EF_CONSTRUCTION, M=M)
        self.index.add_items(points, num_threads=threads)

    def prepare(self, passing: Passing) -> Any:
        # A list's own lookup is the cheapest callable that Python has.
        return passing.mask.tolist().__getitem__

    def search(self, queries: Floats, k: int, param: Param, handle: Any) -> Ids:
        self.index.set_ef(param["ef"])
        try:
            return self.index.knn_query(queries, k=k, num_threads=1, filter=handle)[0].astype(np.int64)
        except RuntimeError:  # Where a query finds fewer than k, the whole batch is refused.
            return pad((self._one(query, k, handle) for query in queries), k)

    def _one(self, query: Floats, k: int, handle: Any) -> list[int]:
        try:
            return [int(row) for row in self.index.knn_query(query, k=k, num_threads=1, filter=handle)[0][0]]
        except RuntimeError:
            return []

    def size_bytes(self) -> int | None:
        path = self.folder / "index"
        self.index.save_index(str(path))
        return path.stat().st_size


class Usearch(Peer):
    """USearch; its Python API takes no predicate."""

    package = "usearch"
    note = "search over a batch; no predicate in its Python API"
    dtype = "f32"

    def build(self, points: Floats, columns: Columns, threads: int) -> None:
        from usearch.index import Index

        self.index = Index(
            ndim=points.shape[1],
            metric="l2sq",
            dtype=self.dtype,
            connectivity=M,
            expansion_add=EF_CONSTRUCTION,
        )
        self.index.add(np.arange(len(points)), points, threads=threads)

    def search(self, queries: Floats, k: int, param: Param, handle: Any) -> Ids:
        self.index.expansion_search = param["ef"]
        return np.asarray(self.index.search(queries, k, threads=1).keys).astype(np.int64)

    def size_bytes(self) -> int | None:
        return int(self.index.serialized_length)


class UsearchInt8(Usearch):
    """USearch with its 8-bit scalars, for data that it can hold: L2 over values of any range loses recall."""

    dtype = "i8"


class Glass(Peer):
    """pyglass: HNSW with 8-bit codes, re-scored in float32."""

    package = "pyglass-portable"
    note = "batch_search, SQ8U codes with FP32 refine; no filter"

    def build(self, points: Floats, columns: Columns, threads: int) -> None:
        import glass

        glass.set_num_threads(threads)
        graph = glass.Index("HNSW", metric="L2", quant="FP32", R=2 * M, L=EF_CONSTRUCTION).build(points)
        self.searcher = glass.Searcher(graph, points, "L2", "SQ8U", "FP32")
        self.searcher.optimize(1)
        self.points = points

    def search(self, queries: Floats, k: int, param: Param, handle: Any) -> Ids:
        self.searcher.set_ef(param["ef"])
        found = self.searcher.batch_search(queries, k, 1)
        return np.asarray(found[0] if isinstance(found, tuple) else found).reshape(len(queries), k)


class ScalableVS(Peer):
    """Intel's SVS: Vamana over float32; its compressed forms refuse other makers' processors."""

    package = "scalable-vs"
    note = "Vamana, float32, search over a batch; no filter"

    def build(self, points: Floats, columns: Columns, threads: int) -> None:
        import svs

        chosen = svs.VamanaBuildParameters(graph_max_degree=2 * M, window_size=EF_CONSTRUCTION, alpha=1.2)
        self.index = svs.Vamana.build(chosen, points, svs.DistanceType.L2, num_threads=threads)

    def one_thread(self) -> None:
        self.index.num_threads = 1

    def search(self, queries: Floats, k: int, param: Param, handle: Any) -> Ids:
        self.index.search_window_size = max(param["ef"], k)
        return np.asarray(self.index.search(queries, k)[0]).astype(np.int64)


def first_integers(answer: Any, shape: tuple[int, int]) -> Ids:
    """Return the ids of a (distances, ids) pair in either order."""
    arrays = [np.asarray(part) for part in answer]
    return next(part for part in arrays if part.dtype.kind in "ui").astype(np.int64).reshape(shape)


class SymphonyQG(Peer):
    """rabitqlib's SymphonyQG (Gou et al. 2025): the neighbours' 1-bit codes lie inside the node."""

    package = "rabitqlib"
    note = "search_batch, degree 32; no filter"

    def build(self, points: Floats, columns: Columns, threads: int) -> None:
        import rabitqlib

        self.index = rabitqlib.SymqgIndex(points.shape[1], 2 * M, "l2")
        self.index.build(points, EF_CONSTRUCTION, threads)

    def search(self, queries: Floats, k: int, param: Param, handle: Any) -> Ids:
        found = self.index.search_batch(queries, k, param["ef"], 1)
        return first_integers(found, (len(queries), k))

    def size_bytes(self) -> int | None:
        path = self.folder / "index"
        self.index.save(str(path))
        return path.stat().st_size if path.is_file() else folder_bytes(path)


class RabitqHnsw(Peer):
    """rabitqlib's HNSW over RaBitQ codes of 8 bits."""

    package = "rabitqlib"
    note = "search over a batch, 8-bit codes; no filter"
    bits = 8

    def build(self, points: Floats, columns: Columns, threads: int) -> None:
        import faiss
        import rabitqlib

        means = faiss.Kmeans(points.shape[1], 16, niter=10, seed=1)
        means.train(points)
        clusters = means.index.search(points, 1)[1].ravel().astype(np.uint32)
        self.index = rabitqlib.HnswIndex(points.shape[1], len(points), M, EF_CONSTRUCTION, self.bits, "l2")
        self.index.build(points, means.centroids, clusters, threads)

    def search(self, queries: Floats, k: int, param: Param, handle: Any) -> Ids:
        return first_integers(self.index.search(queries, k, param["ef"], 1), (len(queries), k))


class PyNNDescent(Peer):
    """PyNNDescent (Dong et al. 2011; McInnes): a neighbour graph in numba, searched with epsilon."""

    package = "pynndescent"
    note = "query over a batch, compiled beforehand, epsilon swept; no filter"

    def params(self, filtered: bool) -> list[Param]:
        return [{"epsilon": value} for value in (0.0, 0.02, 0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3, 0.4)]

    def build(self, points: Floats, columns: Columns, threads: int) -> None:
        import pynndescent

        self.index = pynndescent.NNDescent(points, n_neighbors=2 * M, n_jobs=threads, random_state=1)
        self.index.prepare()

    def one_thread(self) -> None:
        import numba

        numba.set_num_threads(1)

    def search(self, queries: Floats, k: int, param: Param, handle: Any) -> Ids:
        return np.asarray(self.index.query(queries, k=k, epsilon=param["epsilon"])[0]).astype(np.int64)
