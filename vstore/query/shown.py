"""Rows of an answer as hits show them: made when someone looks, whatever found them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from vstore.query.search import distance_of, score_of
from vstore.shard.payload import PayloadRow, Shown, unpacker
from vstore.types import Attributes, Document, Float32s, Hit, Key, Metric


class ShownRow(NamedTuple):
    """What a hit of the memtable shows, or of a shard that was built with other fields."""

    key: Key
    attributes: Attributes
    document: Document | None


Rows: TypeAlias = "Sequence[PayloadRow | ShownRow]"
ShownDistances: TypeAlias = tuple[list[float], list[float]]
"""Scores, and distances as hits show them."""


def shown_distances(distances: Float32s, metric: Metric) -> ShownDistances:
    """Return what hits show for float32[n] distances of the engine."""
    return score_of(distances, metric).tolist(), distance_of(distances, metric).tolist()


class ShownRows(ABC):
    """A `HitRows`, whose kinds say what it is made of."""

    __slots__ = ()

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of hits."""

    @property
    @abstractmethod
    def rows(self) -> Rows:
        """The rows, best first."""

    @property
    @abstractmethod
    def distances(self) -> Float32s:
        """float32[n], of the engine: squared under l2."""

    @property
    @abstractmethod
    def metric(self) -> Metric:
        """The collection's."""

    @property
    @abstractmethod
    def fields(self) -> Shown:
        """What the values of a `PayloadRow` are."""

    def ids(self) -> list[Key]:
        """As `HitRows.ids`."""
        return [row.key for row in self.rows]

    def scores(self) -> Float32s:
        """As `HitRows.scores`."""
        return score_of(self.distances, self.metric)

    def columns(self) -> tuple[list[Key], list[float], list[float], list[Attributes], list[Document | None]]:
        """As `HitRows.columns`."""
        rows = self.rows
        attributes_of = unpacker(self.fields)
        return (
            [row.key for row in rows],
            *shown_distances(self.distances, self.metric),
            [attributes_of(row) if isinstance(row, PayloadRow) else row.attributes for row in rows],
            [row.document for row in rows],
        )

    def hits(self) -> list[Hit]:
        """As `HitRows.hits`."""
        return [
            Hit(key, score, distance, attributes, document, score, position)
            for position, (key, score, distance, attributes, document) in enumerate(
                zip(*self.columns(), strict=True)
            )
        ]
