"""What training is given: queries with the ids that answer them, and a collection behind its public face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vstore.errors import InvalidInput
from vstore.rerank.documents import check_query
from vstore.settings import require
from vstore.types import Hit, Key, Record


class Searched(Protocol):
    """What training uses of a `Collection`."""

    def search(self, query: Any, k: int = 10, filter: Any = None) -> Sequence[Hit]:
        """Return the k best rows."""

    def get(self, ids: Any) -> list[Record | None]:
        """Return the record of each id, or None."""

    @property
    def schema(self) -> Any:
        """Its `dim` and `metric`."""


@dataclass(frozen=True, slots=True)
class TrainQuery:
    """One query: its vector for the first stage, itself for the re-ranker, and the ids that answer it."""

    vector: Any
    """(dim,) numbers."""
    document: Any
    """Its own text or image, as `query_document` of a search."""
    positives: Sequence[Key]
    filter: Any = None
    """The user's; negatives come from what passes it."""


def check_queries(queries: Sequence[TrainQuery], what: str, *, labelled: bool = True) -> None:
    """Check that there are queries, and that each can be read.

    Raises:
        InvalidInput: none, or one without what it needs, named by its position.
    """
    if not queries:
        raise InvalidInput(f"{what} got no queries")
    for position, query in enumerate(queries):
        if not isinstance(query, TrainQuery):
            raise InvalidInput(f"query {position} of {what} is a {type(query).__name__}, not a TrainQuery")
        try:
            check_query(query.document)
        except InvalidInput as error:
            raise InvalidInput(f"query {position} of {what}: {error}") from error
        if labelled and not len(query.positives):
            raise InvalidInput(f"query {position} of {what} has no positives; leave it out")


def split(
    queries: Sequence[TrainQuery], held_out: float | Sequence[TrainQuery], seed: int
) -> tuple[list[TrainQuery], list[TrainQuery]]:
    """Return (trained on, held out); a share is drawn by `seed`, 0 holds nothing out.

    Raises:
        InvalidSetting: a share outside 0 to 0.9.
        InvalidInput: too few queries for it.
    """
    if not isinstance(held_out, (int, float)):
        held = list(held_out)
        if held:
            check_queries(held, "held_out")
        return list(queries), held
    require(0 <= held_out <= 0.9, f"held_out is {held_out!r}; it must be a share from 0 to 0.9, or queries")
    n_held = int(np.ceil(held_out * len(queries)))
    if held_out and len(queries) - n_held < 1:
        raise InvalidInput(
            f"{len(queries)} queries cannot be split by held_out={held_out}; give more, or held_out=0"
        )
    order = np.random.default_rng([seed, 1]).permutation(len(queries)).tolist()
    return [queries[i] for i in sorted(order[n_held:])], [queries[i] for i in sorted(order[:n_held])]
