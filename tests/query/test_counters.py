"""Counters are results: fixed seeded queries cost what the reviewed baseline says.

A change of more than a tenth is a change of behaviour and is read as a diff of the baseline:

    VSTORE_REWRITE_BASELINES=1 python -m pytest tests/query/test_counters.py

A tenth, because processors with other vector units sum in another order, and a distance that
differs in its last bit can send a walk another way.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from face_rows import build_store, queries

import vstore
from vstore import F

BASELINE = Path(__file__).parent.parent / "baselines" / "counters.json"
FILTERS = {"100%": None, "50%": F.bucket < 50, "10%": F.bucket < 10, "1%": F.bucket == 3}
COUNTED = ("n_distances", "n_hops", "n_rescored", "n_skipped", "n_round_trips", "n_requests", "bytes_fetched")
N_QUERIES = 20


def measure() -> dict[str, dict[str, float]]:
    """Return the mean counters of each filter, cold: an empty cache for every query."""
    # By the fixed rules: what a calibration measured is no behaviour of the search.
    store = build_store(n=12_000, block_rows=256, calibrate=False)
    found: dict[str, dict[str, float]] = {}
    for name, filter in FILTERS.items():
        totals = dict.fromkeys(COUNTED, 0.0)
        for query in queries(N_QUERIES):
            with vstore.connect(store, settings=vstore.Settings(n_threads=1)) as database:
                receipt = database.collection("c").search(query, k=10, filter=filter).receipt
            for counter in COUNTED:
                totals[counter] += getattr(receipt, counter) / N_QUERIES
        found[name] = {counter: round(total, 2) for counter, total in totals.items()}
    return found


def test_fixed_queries_cost_what_the_baseline_says(monkeypatch):
    monkeypatch.setattr("vstore.query.planner.SCAN_ROWS", 500)
    measured = measure()
    if os.environ.get("VSTORE_REWRITE_BASELINES"):
        BASELINE.write_text(json.dumps(measured, indent=2) + "\n")
    expected = json.loads(BASELINE.read_text())
    assert measured.keys() == expected.keys()
    for name, counters in expected.items():
        assert measured[name] == pytest.approx(counters, rel=0.1, abs=0.5), name
