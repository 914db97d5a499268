"""The values that cross vstore's public face: keys, hits, receipts, and the Reranker protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, overload, runtime_checkable

import numpy as np
import numpy.typing as npt

Key = int | str
"""A caller's id. A collection holds one kind only."""

IdKind = Literal["int", "str"]
Metric = Literal["cosine", "l2", "dot"]
FieldType = Literal["int", "float", "bool", "str", "datetime", "list[str]", "list[int]"]

METRICS: tuple[Metric, ...] = ("cosine", "l2", "dot")
FIELD_TYPES: tuple[FieldType, ...] = ("int", "float", "bool", "str", "datetime", "list[str]", "list[int]")

Float32s = npt.NDArray[np.float32]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt8s = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Bitmap = npt.NDArray[np.uint64]
"""uint64[ceil(n / 64)]: row i is bit `i & 63` of word `i >> 6`; bits past n are zero."""

Attributes = dict[str, Any]
Document = dict[str, Any]
"""A stored document: {"text": str} and / or {"image": bytes | str}."""


@dataclass(frozen=True, slots=True)
class Record:
    """One stored row, as `Collection.get` returns it.

    `vector` is float32[dim], exactly the components that were upserted.
    """

    id: Key
    vector: Float32s
    attributes: Attributes
    document: Document | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document as a re-ranker sees it: whatever of it was stored."""

    id: Key
    text: str | None
    image: Any
    attributes: Attributes


@runtime_checkable
class Reranker(Protocol):
    """Scores documents against a query. A plain callable of the same signature will do."""

    def score(self, query: Any, documents: Sequence[Candidate]) -> npt.ArrayLike:
        """Return float32[n], larger is better, one score for each document in the order given.

        A NaN marks a document that could not be scored; it keeps its first-stage place.
        """
        ...


@dataclass(slots=True)
class Hit:
    """One answer: `score` is higher-is-better, `distance` is the metric's own (lower is nearer).

    After re-ranking, `score` is the re-ranker's; `first_score` and `first_rank` keep the vector
    stage's (rank counts from 0). Without re-ranking they equal `score` and the hit's position.
    """

    id: Key
    score: float
    distance: float
    attributes: Attributes
    document: Document | None
    first_score: float
    first_rank: int


@dataclass(slots=True)
class RerankReport:
    """What one re-ranking stage did to one answer."""

    model: str
    n_scored: int
    n_failed: int
    n_moved: int
    latency_ms: float
    failures: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Receipt:
    """What an answer cost, and why it was computed the way it was.

    Counters add up over shards and the memtable. `n_cache_hits` are blocks found in memory,
    `n_disk_hits` in the disk tier, `n_cache_misses` those read from the store. `plan` names the
    traversal of each shard and the reason it was chosen; `selectivity` is passing / live rows;
    `correlation` is the share of passing rows in the clusters nearest the query over their share
    overall (1 is uncorrelated).
    """

    plan: str = ""
    plans: list[dict[str, Any]] = field(default_factory=list)
    selectivity: float = 1.0
    correlation: float | None = None
    ef: int = 0
    n_rows: int = 0
    n_matching: int = 0
    n_distances: int = 0
    n_hops: int = 0
    n_filter_checks: int = 0
    n_rescored: int = 0
    n_round_trips: int = 0
    n_requests: int = 0
    bytes_fetched: int = 0
    n_cache_hits: int = 0
    n_disk_hits: int = 0
    n_cache_misses: int = 0
    estimated_cost_usd: float = 0.0
    timings_ms: dict[str, float] = field(default_factory=dict)
    rerank: list[RerankReport] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the receipt as plain dicts, lists and numbers."""
        return dataclasses.asdict(self)


@dataclass(slots=True)
class Hits(Sequence[Hit]):
    """The answer to one search: hits, best first, and the receipt."""

    hits: list[Hit]
    receipt: Receipt

    @property
    def ids(self) -> list[Key]:
        """The hits' ids, best first."""
        return [hit.id for hit in self.hits]

    @property
    def scores(self) -> Float32s:
        """float32[len(self)], best first."""
        return np.array([hit.score for hit in self.hits], dtype=np.float32)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit]: ...
    def __getitem__(self, index: int | slice) -> Hit | Sequence[Hit]:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)


@dataclass(slots=True)
class BatchHits:
    """The answers to n queries.

    `ids` is (n, k), `scores` float32 (n, k). Where fewer than k rows match, the tail of a row of
    `ids` holds None (-1 in a collection of int ids) and of `scores` -inf.
    """

    ids: npt.NDArray[Any]
    scores: Float32s
    receipts: list[Receipt]

    def __len__(self) -> int:
        return len(self.receipts)


@dataclass(frozen=True, slots=True)
class Schema:
    """What a collection holds: fixed when it is created."""

    dim: int
    metric: Metric
    fields: Mapping[str, FieldType]
