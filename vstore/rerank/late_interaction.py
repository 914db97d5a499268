"""Late interaction: query and document as many vectors each, the score by MaxSim (Khattab & Zaharia 2020).

Document vectors are given (they do not depend on the query, so they can be kept) or computed by an encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from vstore.errors import InvalidSetting, RerankError
from vstore.rerank import work as recorder
from vstore.rerank.torch_parts import device_of, import_torch
from vstore.settings import require
from vstore.types import Candidate, Float32s, Key

Backend = Literal["numba", "torch"]
BACKENDS: tuple[Backend, ...] = ("numba", "torch")
GivenVectors = Mapping[Key, npt.ArrayLike] | Callable[[Candidate], npt.ArrayLike | None]


class MultiVectorEncoder(Protocol):
    """What makes vectors of queries and documents, both float32[any, dim] and usually of length 1."""

    def encode_query(self, query: Any) -> npt.ArrayLike:
        """Return float32[q, dim] for a query document."""

    def encode_documents(self, documents: Sequence[Candidate]) -> Sequence[npt.ArrayLike | None]:
        """Return float32[d_i, dim] for each document, or None for one that cannot be read."""


class LateInteractionReranker:
    """Scores by MaxSim: for each query vector the best of the document's vectors, summed.

    Args:
        encoder: makes the vectors: `ColBertEncoder`, `ColQwen2Encoder`, or any object with `encode_query` and
            `encode_documents`.
        vectors: the documents' vectors instead, by id or by a callable of the candidate (None where it has
            none). The encoder then makes the query's alone.
        backend: "numba" on the CPU, or "torch" on a device.
        device: of torch.
        name: what reports call it.

    Raises:
        InvalidSetting: no encoder, or a backend that does not exist.
        MissingDependency: torch cannot be imported and was asked for.
    """

    def __init__(
        self,
        encoder: MultiVectorEncoder,
        *,
        vectors: GivenVectors | None = None,
        backend: Backend = "numba",
        device: str | None = None,
        name: str | None = None,
    ) -> None:
        if not callable(getattr(encoder, "encode_query", None)):
            raise InvalidSetting(
                f"encoder is a {type(encoder).__name__}; it must have encode_query(query) -> float32[q, dim]"
            )
        if vectors is None and not callable(getattr(encoder, "encode_documents", None)):
            raise InvalidSetting(
                f"{type(encoder).__name__} has no encode_documents(documents); add it, or give vectors="
            )
        require(backend in BACKENDS, f"backend is {backend!r}; it must be one of {', '.join(BACKENDS)}")
        self.encoder = encoder
        self.name = name or f"late-interaction {getattr(encoder, 'name', type(encoder).__name__)}"
        self.backend = backend
        self._vectors = vectors
        if backend == "torch":
            self._torch, _ = import_torch("LateInteractionReranker")
            self._device = device_of(self._torch, device)

    def score(self, query: Any, documents: Sequence[Candidate]) -> Float32s:
        """Return float32[n], the sum over query vectors of the best inner product; NaN without vectors.

        Raises:
            RerankError: vectors of another shape or dimension than the query's.
        """
        asked = _matrix(self.encoder.encode_query(query), "the query's vectors")
        if not len(documents):
            return np.empty(0, dtype=np.float32)
        work = recorder.current()
        found = self._document_vectors(documents)
        matrices = []
        for row, (document, given) in enumerate(zip(documents, found, strict=True)):
            matrix = None if given is None else _matrix(given, f"the vectors of document {document.id!r}")
            if matrix is None or not len(matrix):
                work.failures[row] = "has no vectors"
                matrix = np.empty((0, asked.shape[1]), dtype=np.float32)
            if matrix.shape[1] != asked.shape[1]:
                raise RerankError(
                    f"document {document.id!r} has vectors of {matrix.shape[1]} dimensions and the query of "
                    f"{asked.shape[1]}; both must come from one model"
                )
            matrices.append(matrix)
        work.n_pairs += len(documents) - len(work.failures)
        offsets = np.cumsum([0, *(len(matrix) for matrix in matrices)], dtype=np.int64)
        packed = np.concatenate(matrices)
        if self.backend == "torch":
            return self._on_device(asked, packed, offsets)
        # Compiled on first use, which `import vstore.rerank` should not wait for.
        from vstore_kernels.maxsim import max_sim

        return max_sim(asked, packed, offsets)

    def _document_vectors(self, documents: Sequence[Candidate]) -> Sequence[npt.ArrayLike | None]:
        if self._vectors is None:
            found = self.encoder.encode_documents(documents)
            if len(found) != len(documents):
                raise RerankError(f"{self.name} gave vectors of {len(found)} documents for {len(documents)}")
            return found
        if isinstance(self._vectors, Mapping):
            return [self._vectors.get(document.id) for document in documents]
        return [self._vectors(document) for document in documents]

    def _on_device(self, query: Float32s, packed: Float32s, offsets: npt.NDArray[np.int64]) -> Float32s:
        torch = self._torch
        counts = np.diff(offsets)
        with torch.inference_mode():
            # One product for all documents, then the greatest of each document's rows.
            products = torch.from_numpy(packed).to(self._device) @ torch.from_numpy(query).to(self._device).T
            owner = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(self._device)
            best = torch.full((len(counts), len(query)), -torch.inf, device=self._device)
            best.scatter_reduce_(0, owner.unsqueeze(1).expand_as(products), products, "amax")
            scores: Float32s = best.sum(1).cpu().numpy()
        scores[counts == 0] = np.nan
        return scores


def _matrix(values: npt.ArrayLike, what: str) -> Float32s:
    given: Any = values
    if hasattr(given, "detach"):
        given = given.detach().float().cpu().numpy()
    matrix = np.asarray(given, dtype=np.float32)
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise RerankError(f"{what} have shape {matrix.shape}; expected finite numbers of shape (n, dim)")
    return np.ascontiguousarray(matrix)
