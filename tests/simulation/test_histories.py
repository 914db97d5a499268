"""Seeded histories over a failing store: 100 here; `python tests/simulation/play.py` plays 2,000 and more."""

from __future__ import annotations

from collections import Counter

import pytest
from play import play

N_HISTORIES = 100
GROUP = 20

FOUND = {
    48: "what a crash left of a dropped collection was never collected",
    49: "a writer that was taken over had a deletion acknowledged that found nothing in its stale view",
    93: "a writer overtaken between its manifest and its fence put the fence behind its successor's",
    211: "a collection was dropped by a writer that had been taken over, and its successor went on writing",
    221: "after a restore whose answer was lost, an update wrote rows from before it",
    1118: "a tag after a restore whose answer was lost kept what was there before it",
    1797: "opening for writing what was dropped meanwhile said that the log was damaged",
}
"""Seeds whose histories found a bug. A change of vstore's calls makes another history of a seed, so each
bug has a plain test too; docs/DURABILITY.md says which of these still find theirs."""


FOUND_WITH_FIELDS = {
    539: "a reader that missed a field go and come back saw the values of the one that went",
    850: "a writer whose shards could not be opened after it had dropped a field wrote values of that field",
}
"""The same, of histories in which fields change."""


@pytest.mark.parametrize("first", range(0, N_HISTORIES, GROUP))
@pytest.mark.parametrize("fields", [False, True], ids=["rows", "fields"])
def test_histories(first, fields):
    for seed in range(first, first + GROUP):
        play(seed, fields)


@pytest.mark.parametrize("seed", FOUND_WITH_FIELDS)
def test_histories_with_fields_that_found_a_bug(seed):
    play(seed, fields=True)


@pytest.mark.parametrize("seed", [seed for seed in FOUND if seed >= N_HISTORIES])
def test_histories_that_found_a_bug(seed):
    play(seed)


def test_the_same_seed_gives_the_same_history():
    for seed in range(12):
        first, second = play(seed, seed % 2 == 1), play(seed, seed % 2 == 1)
        assert first.trace == second.trace
        assert first.trace
        for one, other in zip(first.world.histories.values(), second.world.histories.values(), strict=True):
            assert one.moments == other.moments


def test_histories_are_not_idle():
    """Everything that may happen does happen in the histories of this file."""
    found: Counter[str] = Counter()
    for seed in range(40):
        played = play(seed)
        for what in (
            "refused",
            "lost",
            "late",
            "slow",
            "crash after",
            "crashed",
            "a late one landed",
            "sees a stale listing",
            "failed: WriterFenced",
            "failed: SnapshotNotFound",
            "dead/",
            "tag.",
            "compact",
        ):
            found[what] += sum(what in line for line in played.trace)
        found["restored"] += sum(" restored " in s and not s.endswith("None") for s in played.trace)
        found["torn"] += sum(line.endswith("torn") for line in played.trace)
        found["two collections"] += len(played.world.current) == 2
        found["dropped"] += sum(history.dropped for history in played.world.histories.values())
        found["acknowledged"] += played.n_acknowledged
        played = play(seed, fields=True)
        for what in ("added extra: None", "added extra: ", "dropped extra: "):
            found[what] += sum(what in line for line in played.trace)
    assert all(found.values()), found
    assert found["acknowledged"] > 300
