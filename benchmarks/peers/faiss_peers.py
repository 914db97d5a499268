"""Adapters of Faiss: HNSW, HNSW over 8-bit codes with re-scoring, and IVF; filters by IDSelectorBitmap."""

from __future__ import annotations

from typing import Any

import numpy as np

from .base import EF_CONSTRUCTION, Columns, Floats, Ids, M, Param, Passing, Peer


class FaissHnsw(Peer):
    """IndexHNSWFlat."""

    package = "faiss-cpu"
    filters = True
    note = "search over a batch; a filter is IDSelectorBitmap, made outside the clock"

    def index_of(self, faiss: Any, dim: int, n: int) -> Any:
        """Return the empty index, and keep what search parameters need."""
        index = faiss.IndexHNSWFlat(dim, M, faiss.METRIC_L2)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        return index

    def build(self, points: Floats, columns: Columns, threads: int) -> None:
        import faiss

        self.faiss = faiss
        faiss.omp_set_num_threads(threads)
        self.index = self.index_of(faiss, points.shape[1], len(points))
        self.index.train(points)
        self.index.add(points)

    def one_thread(self) -> None:
        self.faiss.omp_set_num_threads(1)

    def prepare(self, passing: Passing) -> Any:
        bits = np.packbits(passing.mask, bitorder="little")
        # The bytes are kept beside the selector, which only points at them.
        return self.faiss.IDSelectorBitmap(bits), bits

    def search_params(self, param: Param, chosen: dict[str, Any]) -> Any:
        """Return Faiss's parameter object; `chosen` holds the selector, if there is one."""
        return self.faiss.SearchParametersHNSW(efSearch=param["ef"], **chosen)

    def search(self, queries: Floats, k: int, param: Param, handle: Any) -> Ids:
        chosen = {"sel": handle[0]} if handle is not None else {}
        return self.index.search(queries, k, params=self.search_params(param, chosen))[1]

    def size_bytes(self) -> int | None:
        return int(self.faiss.serialize_index(self.index).nbytes)


class FaissHnswSq8Refine(FaissHnsw):
    """IndexHNSWSQ, 8 bits, the best 2k re-scored in float32."""

    note = "as faiss-hnsw, 8-bit codes, k_factor=2"

    def index_of(self, faiss: Any, dim: int, n: int) -> Any:
        self.base = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, M, faiss.METRIC_L2)
        self.base.hnsw.efConstruction = EF_CONSTRUCTION
        return faiss.IndexRefineFlat(self.base)

    def search_params(self, param: Param, chosen: dict[str, Any]) -> Any:
        inner = super().search_params(param, chosen)
        return self.faiss.IndexRefineSearchParameters(k_factor=2.0, base_index_params=inner)


class FaissIvf(FaissHnsw):
    """IndexIVFFlat with 4 * sqrt(n) lists, nprobe swept."""

    note = "IVF, 4*sqrt(n) lists; a filter is IDSelectorBitmap, made outside the clock"

    def index_of(self, faiss: Any, dim: int, n: int) -> Any:
        self.n_lists = int(4 * np.sqrt(n))
        return faiss.index_factory(dim, f"IVF{self.n_lists},Flat", faiss.METRIC_L2)

    def params(self, filtered: bool) -> list[Param]:
        probes = [2**power for power in range(10) if 2**power < self.n_lists]
        return [{"nprobe": probe} for probe in (*probes, self.n_lists)]

    def search_params(self, param: Param, chosen: dict[str, Any]) -> Any:
        return self.faiss.SearchParametersIVF(nprobe=param["nprobe"], **chosen)
