"""Seeded histories over a failing store: 100 here, as many as VSTORE_HISTORIES says in the nightly run."""

from __future__ import annotations

import os

import pytest
from sim import InlinePool, Simulation

import vstore.ingest.reader

N_HISTORIES = int(os.environ.get("VSTORE_HISTORIES", "100"))
GROUP = 20

FOUND = (93,)
"""Seeds whose histories once found a bug; docs/DURABILITY.md says which."""


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setattr(vstore.ingest.reader, "ThreadPoolExecutor", InlinePool)


def play(seed: int) -> Simulation:
    simulation = Simulation(seed)
    try:
        simulation.run()
    except BaseException as error:
        last = "\n".join(simulation.trace[-30:])
        error.add_note(f"seed {seed}, after:\n{last}")
        raise
    return simulation


@pytest.mark.parametrize("first", range(0, N_HISTORIES, GROUP))
def test_histories(first):
    for seed in range(first, min(first + GROUP, N_HISTORIES)):
        play(seed)


@pytest.mark.parametrize("seed", FOUND)
def test_histories_that_found_a_bug(seed):
    play(seed)


def test_the_same_seed_gives_the_same_history():
    for seed in range(12):
        first, second = play(seed), play(seed)
        assert first.trace == second.trace
        assert first.trace
        assert first.truth.states == second.truth.states


def test_histories_are_not_idle():
    """Faults, crashes, late puts, take-overs, and acts between the calls of others do come about."""
    lines = [line for seed in range(30) for line in play(seed).trace]
    for what in (
        "refused",
        "lost",
        "late",
        "crash after",
        "a late one landed",
        "failed: WriterFenced",
        "dead/",
    ):
        assert any(what in line for line in lines), what
