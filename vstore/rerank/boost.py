"""AdaptiveBoost: the score calibration of RAGStack-Lambda on S3 Vectors, for people who come from it.

There a filtered query's scores are not comparable with an unfiltered one's, so both are run and the filtered
scores multiplied. Here both are exact distances of the stored vectors, equal to rounding, and no boost is
needed to make them comparable; it remains as a way to prefer what passes a filter over what does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vstore.settings import require
from vstore.types import Hit, Key


@dataclass(frozen=True, slots=True)
class AdaptiveBoost:
    """Multiplies filtered scores by min(max(best unfiltered / best filtered x margin, least), most).

    Scores below 0 are divided instead, so that a boost never lowers one; and the ratio of two bests of which
    one is not above 0 says nothing, so that `most` is taken.

    Raises:
        InvalidSetting: limits that do not rise from 1.
    """

    margin: float = 1.05
    least: float = 1.02
    most: float = 1.25

    def __post_init__(self) -> None:
        require(
            1.0 <= self.least <= self.most and self.margin > 0,
            f"least is {self.least!r}, most {self.most!r} and margin {self.margin!r}; "
            "1 <= least <= most, and margin above 0",
        )

    def factor(self, filtered: Sequence[float], unfiltered: Sequence[float]) -> float:
        """Return what filtered scores are multiplied by; `most` where either slice is empty.

        Args:
            filtered: scores of the filtered answer, in any order.
            unfiltered: of the unfiltered one.
        """
        if not len(filtered) or not len(unfiltered):
            return self.most
        best, best_of_all = max(filtered), max(unfiltered)
        if best <= 0 or best_of_all <= 0:
            return self.most
        return min(max(best_of_all / best * self.margin, self.least), self.most)

    def boosted(self, score: float, factor: float) -> float:
        """Return a score raised by a factor of 1 or more; never a lower one."""
        return score * factor if score >= 0 else score / factor

    def merge(self, filtered: Sequence[Hit], unfiltered: Sequence[Hit], k: int) -> list[Hit]:
        """Return the k best of both answers, each id once: filtered hits boosted, the others as they are.

        Ties keep the filtered ones first. `first_score` keeps the score before the boost.
        """
        factor = self.factor([hit.score for hit in filtered], [hit.score for hit in unfiltered])
        merged: dict[Key, Hit] = {
            hit.id: replace(hit, score=self.boosted(hit.score, factor)) for hit in filtered
        }
        for hit in unfiltered:
            merged.setdefault(hit.id, hit)
        return sorted(merged.values(), key=lambda hit: -hit.score)[:k]

    def search(
        self, collection: Any, query: Any, k: int = 10, filter: Any = None, **options: Any
    ) -> list[Hit]:
        """Search with the filter and without, and merge; without a filter it is a plain search.

        Args:
            collection: a `Collection`.
            query, k, filter, options: as of its `search`.
        """
        unfiltered = collection.search(query, k, **options)
        if filter is None:
            return list(unfiltered)
        return self.merge(list(collection.search(query, k, filter, **options)), list(unfiltered), k)
