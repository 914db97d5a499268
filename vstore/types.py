"""The values that cross vstore's public face: keys, hits, receipts, and the Reranker protocol."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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
Float64s = npt.NDArray[np.float64]
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
    """A document as a re-ranker sees it: whatever of it was stored, and where the vector stage had it."""

    id: Key
    text: str | None
    image: Any
    attributes: Attributes
    first_score: float = math.nan
    first_rank: int = -1


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
    """What one re-ranking stage did to one answer, and what it took.

    `n_dropped` hits left the answer by `min_score` or `keep`. `deadline_passed`: the order was kept because
    the stage's time was over; `stopped_early`: the later stages of the cascade were not needed. The counters
    from `n_pairs` on are the model's, 0 where it keeps none: pairs scored and those known before, batches,
    tokens without padding, padding / all tokens, the most searches that shared a batch with this one, and
    milliseconds of decoding images (over threads), of waiting for the device, and of this search's part of
    the batches.
    """

    model: str
    n_scored: int
    n_failed: int
    n_moved: int
    latency_ms: float
    failures: list[str] = field(default_factory=list)
    n_dropped: int = 0
    deadline_passed: bool = False
    stopped_early: bool = False
    n_pairs: int = 0
    n_cached: int = 0
    n_batches: int = 0
    n_tokens: int = 0
    padding_share: float = 0.0
    n_queries_merged: int = 0
    decode_ms: float = 0.0
    wait_ms: float = 0.0
    forward_ms: float = 0.0


class _FilledLater:
    """Lets a dataclass with slots stay empty until a field of it is read: few receipts ever are."""

    __slots__ = ("_fill",)

    _fill: Callable[[], Mapping[str, Any]]

    def __getattr__(self, name: str) -> Any:
        # Python asks here only for what is not set.
        try:
            fill: Callable[[], Mapping[str, Any]] = object.__getattribute__(self, "_fill")
        except AttributeError:
            # Filled in since, by another thread; or there is no such field, which this says.
            return object.__getattribute__(self, name)
        values = fill()
        if name not in values:
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        for field_name, value in values.items():
            try:
                object.__getattribute__(self, field_name)
            except AttributeError:
                setattr(self, field_name, value)
        # Last: another thread that reads at the same time fills the same values in.
        with contextlib.suppress(AttributeError):
            del self._fill
        return object.__getattribute__(self, name)

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


@dataclass(slots=True)
class Receipt(_FilledLater):
    """What an answer cost, and why it was computed the way it was.

    Counters add up over shards and the memtable. `n_cache_hits` are blocks found in memory,
    `n_disk_hits` in the disk tier, `n_cache_misses` those read from the store. `plan` names the
    traversal of each shard and the reason it was chosen; `selectivity` is passing / live rows;
    `correlation` is the share of passing rows in the clusters nearest the query over their share
    overall (1 is uncorrelated). Of the candidates, `n_rescored` were scored exactly; the `n_skipped`
    could not be among the k best, by the error bound of their estimates. `n_requests` counts the `n_retries`
    that were sent again too. `partial`: the query was stopped, by what `stopped` says, and the hits are those
    of the shards that had answered.
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
    n_skipped: int = 0
    n_round_trips: int = 0
    n_requests: int = 0
    n_retries: int = 0
    bytes_fetched: int = 0
    n_cache_hits: int = 0
    n_disk_hits: int = 0
    n_cache_misses: int = 0
    estimated_cost_usd: float = 0.0
    partial: bool = False
    stopped: str = ""
    timings_ms: dict[str, float] = field(default_factory=dict)
    rerank: list[RerankReport] = field(default_factory=list)

    @classmethod
    def later(cls, fill: Callable[[], Mapping[str, Any]]) -> Receipt:
        """Return a receipt whose fields are computed when one of them is first read.

        Args:
            fill: returns every field by name; called once, or once a thread that reads at the same time.
        """
        receipt = cls.__new__(cls)
        receipt._fill = fill
        return receipt

    def values(self) -> dict[str, Any]:
        """Return every field by name; a receipt that nobody looked at stays unfilled."""
        try:
            fill: Callable[[], Mapping[str, Any]] = object.__getattribute__(self, "_fill")
        except AttributeError:
            return self.__getstate__()
        return dict(fill())

    def as_dict(self) -> dict[str, Any]:
        """Return the receipt as plain dicts, lists and numbers."""
        return dataclasses.asdict(self)


class HitRows(Protocol):
    """The rows of an answer before anyone looked at them; immutable."""

    def __len__(self) -> int:
        """Return the number of hits."""
        ...

    def ids(self) -> list[Key]:
        """Return the hits' ids, best first."""
        ...

    def scores(self) -> Float32s:
        """Return float32[n], best first; the caller's to change."""
        ...

    def columns(self) -> tuple[list[Key], list[float], list[float], list[Attributes], list[Document | None]]:
        """Return ids, scores, distances, attributes and documents, best first."""
        ...

    def hits(self) -> list[Hit]:
        """Return the hits, best first: new objects."""
        ...


_COLUMNS = {
    "ids": "id",
    "scores": "score",
    "distances": "distance",
    "attributes": "attributes",
    "documents": "document",
    "first_scores": "first_score",
    "first_ranks": "first_rank",
}


class Hits(Sequence[Hit]):
    """The answer to one search: hits, best first, and the receipt.

    Everything was read when the search returned; `Hit` objects are made when they are first looked at.

    Args:
        hits: a list of hits, or the rows that they are made of.
        receipt: what the answer cost.
    """

    __slots__ = ("_hits", "_rows", "receipt")
    __match_args__ = ("hits", "receipt")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, hits: list[Hit] | HitRows, receipt: Receipt) -> None:
        self._hits: list[Hit] | None = hits if isinstance(hits, list) else None
        self._rows: HitRows | None = None if isinstance(hits, list) else hits
        self.receipt = receipt

    @property
    def hits(self) -> list[Hit]:
        """The hits as a list, best first."""
        rows = self._rows
        if self._hits is None and rows is not None:
            self._hits = rows.hits()
        self._rows = None
        assert self._hits is not None
        return self._hits

    @hits.setter
    def hits(self, hits: list[Hit]) -> None:
        self._hits, self._rows = hits, None

    def columns(self) -> dict[str, list[Any]]:
        """Return the hits as columns: ids, scores, distances, attributes, documents and first_scores,
        first_ranks."""
        rows = self._rows
        if rows is None:
            hits = self.hits
            return {name: [getattr(hit, own) for hit in hits] for name, own in _COLUMNS.items()}
        ids, scores, distances, attributes, documents = rows.columns()
        return {
            "ids": ids,
            "scores": scores,
            "distances": distances,
            "attributes": attributes,
            "documents": documents,
            "first_scores": scores,
            "first_ranks": list(range(len(ids))),
        }

    @property
    def ids(self) -> list[Key]:
        """The hits' ids, best first."""
        rows = self._rows
        return [hit.id for hit in self.hits] if rows is None else rows.ids()

    @property
    def scores(self) -> Float32s:
        """float32[len(self)], best first."""
        rows = self._rows
        return np.array([hit.score for hit in self.hits], dtype=np.float32) if rows is None else rows.scores()

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit]: ...
    def __getitem__(self, index: int | slice) -> Hit | Sequence[Hit]:
        return self.hits[index]

    def __len__(self) -> int:
        rows = self._rows
        return len(self.hits) if rows is None else len(rows)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Hits):
            return NotImplemented
        return self.hits == other.hits and self.receipt == other.receipt

    def __repr__(self) -> str:
        return f"Hits(hits={self.hits!r}, receipt={self.receipt!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Hits, (self.hits, self.receipt)


class Warmed(int):
    """The bytes that a warming read from the store, a plain int, which also knows the rest of it."""

    n_blocks: int
    """Blocks read from the store."""
    n_requests: int
    n_left: int
    """Blocks left out, for lack of budget or room: call again, with more, to go on where it stopped."""

    def __new__(cls, bytes_fetched: int, n_blocks: int = 0, n_requests: int = 0, n_left: int = 0) -> Warmed:
        """Return `bytes_fetched` as an int with these attributes."""
        made = super().__new__(cls, bytes_fetched)
        made.n_blocks, made.n_requests, made.n_left = n_blocks, n_requests, n_left
        return made

    def __repr__(self) -> str:
        counts = f"n_blocks={self.n_blocks}, n_requests={self.n_requests}, n_left={self.n_left}"
        return f"Warmed({int(self)}, {counts})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Warmed, (int(self), self.n_blocks, self.n_requests, self.n_left)


@dataclass(slots=True)
class BatchHits:
    """The answers to n queries.

    `ids` is (n, k), `scores` float32 (n, k). Where fewer than k rows match, the tail of a row of
    `ids` holds None (-1 in a collection of int ids) and of `scores` -inf. `receipts` has one receipt for each
    query, made when it is first looked at.
    """

    ids: npt.NDArray[Any]
    scores: Float32s
    receipts: Sequence[Receipt]

    def __len__(self) -> int:
        return len(self.receipts)


@dataclass(frozen=True, slots=True)
class Schema:
    """What a collection holds. Fields come and go; dimension and metric are fixed when it is created."""

    dim: int
    metric: Metric
    fields: Mapping[str, FieldType]
