"""What a step sees: which queries, documents and versions of them; all of it follows from the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vstore.errors import InvalidInput
from vstore.rerank.train.mining import Mined
from vstore.rerank.train.settings import TrainSettings
from vstore.rerank.train.trainable import Trainable
from vstore.types import Bools, Candidate


@dataclass(slots=True)
class Batch:
    """A forward pass: pairs, and for each which query (row) it belongs to and whether it is an answer."""

    pairs: list[Any] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    answers: list[bool] = field(default_factory=list)


class Sampler:
    """Draws forward passes. Number m depends on the seed and m alone, so a training can go on anywhere."""

    def __init__(
        self, mined: Sequence[Mined], made: Trainable, settings: TrainSettings, augmented: bool
    ) -> None:
        self._mined, self._made, self._settings, self._augmented = mined, made, settings, augmented
        groups: dict[str, list[int]] = {}
        for row, each in enumerate(mined):
            groups.setdefault(repr(each.query.filter), []).append(row)
        self._groups = list(groups.values())
        self._last: tuple[int, list[list[int]]] = (0, self._epoch(0))
        self.n_in_epoch = len(self._last[1])
        self.unreadable: set[Any] = set()

    def _epoch(self, epoch: int) -> list[list[int]]:
        random = np.random.default_rng([self._settings.seed, 2, epoch])
        chunks = []
        for group in self._groups:
            order = random.permutation(group).tolist()
            n = -(-len(order) // self._settings.batch_queries)
            # Even pieces: a filter of five queries at four a pass is three and two.
            chunks += [part.tolist() for part in np.array_split(order, n)]
        return [chunks[i] for i in random.permutation(len(chunks))]

    def batch(self, number: int) -> Batch:
        """Return forward pass `number`."""
        epoch, place = divmod(number, self.n_in_epoch)
        if self._last[0] != epoch:
            self._last = (epoch, self._epoch(epoch))
        chosen = self._last[1][place]
        random = np.random.default_rng([self._settings.seed, 3, number])
        pool: dict[Any, Candidate] = {}
        drawn: list[set[Any]] = []
        for row in chosen:
            mined = self._mined[row]
            picked = [
                *_some(mined.positives, self._settings.n_positives, random),
                *_some(mined.negatives, self._settings.n_negatives, random),
            ]
            pool |= {candidate.id: candidate for candidate in picked}
            drawn.append({candidate.id for candidate in picked})
        versions = {
            key: int(random.integers(0, self._settings.n_views + 1)) if self._augmented else 0 for key in pool
        }
        batch = Batch()
        for place, (row, own) in enumerate(zip(chosen, drawn, strict=True)):
            self._add(batch, place, self._mined[row], pool, own, versions)
        return batch

    def _add(
        self,
        batch: Batch,
        place: int,
        mined: Mined,
        pool: dict[Any, Candidate],
        own: set[Any],
        versions: dict[Any, int],
    ) -> None:
        known = {candidate.id for candidate in mined.positives}
        for key, candidate in pool.items():
            if key not in own and (not self._settings.in_batch or key in mined.doubtful):
                continue
            try:
                pair = self._made.prepare(mined.query.document, candidate, versions[key])
            except InvalidInput:
                self.unreadable.add(key)
                continue
            batch.pairs.append(pair)
            batch.rows.append(place)
            batch.answers.append(key in known)


def _some(candidates: Sequence[Candidate], n: int, random: np.random.Generator) -> list[Candidate]:
    if len(candidates) <= n:
        return list(candidates)
    return [candidates[i] for i in random.choice(len(candidates), n, replace=False).tolist()]


def listwise_loss(torch: Any, logits: Any, batch: Batch, temperature: float) -> Any:
    """Return the mean over queries and their answers of -log softmax(answer against the wrong documents).

    InfoNCE (van den Oord et al. 2018) over each query's own list; several answers share the wrong documents
    and do not compete with each other. Queries without both kinds count for nothing; None where all are such.

    Args:
        torch: the module.
        logits: float32[pairs].
        batch: whose they are.
        temperature: divides them.
    """
    rows = np.asarray(batch.rows)
    right: Bools = np.asarray(batch.answers, dtype=np.bool_)
    scaled = logits / temperature
    losses = []
    for row in np.unique(rows).tolist():
        good, bad = (np.flatnonzero((rows == row) & kind) for kind in (right, ~right))
        if not len(good) or not len(bad):
            continue
        answers = scaled[torch.from_numpy(good).to(scaled.device)]
        others = torch.logsumexp(scaled[torch.from_numpy(bad).to(scaled.device)], 0)
        losses.append((torch.logaddexp(answers, others) - answers).mean())
    return torch.stack(losses).mean() if losses else None
