"""Experiments from files: what they say, that they repeat, go on after a break, and make their page."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from lab_data import index, queries

from vstore.errors import InvalidInput, InvalidSetting
from vstore.lab import datasets, keep
from vstore.lab.experiment import read_experiment
from vstore.lab.parts import cache_of, traversal_of
from vstore.lab.replay import CacheChoice
from vstore.lab.report import read_table, write_pictures, write_report
from vstore.lab.runner import run_experiment
from vstore.lab.workload import CORRELATIONS, Filters, Workload, stream_of
from vstore_kernels import bitmap

SHIPPED = sorted((Path(__file__).parents[2] / "docs" / "lab").glob("*.toml"))
EXPERIMENT = """
name = "small"
queries = 6
drawings = 1
seeds = [0, 1]
stores = ["s3_standard"]
[[data]]
kind = "clustered"
rows = 900
dim = 8
[index]
M = 6
ef_construction = 40
cluster_rows = 40
block_shift = 4
order = ["cluster", "mine.py:backwards"]
[[workload]]
selectivity = [0.3, 0.05]
correlation = "far"
[[policy]]
traversal = [
  "acorn_gamma", "cluster_acorn", "clusters", "plan_by_selectivity", "plan_as_engine", "mine.py:wide",
]
ef = 20
n_seeds = 8
[[cache]]
name = "none"
[[cache]]
name = "lru"
limit_bytes = 20_000
[[cache]]
name = "fifo"
limit_bytes = 40_000
eviction = "mine.py:OldestOut"
[[store]]
name = "mine"
usd_per_1000_requests = 0.001
latency = { kind = "log_normal", median_ms = 3 }
"""
MINE = """
import numpy as np
from vstore.cache.policies import LRU
from vstore.lab.walks import PostFilter
wide = PostFilter(8)
def backwards(index):
    return np.arange(index.n)[::-1].copy()
class OldestOut(LRU):
    def used(self, key):
        pass
"""


@pytest.fixture
def experiment_file(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    path = tmp_path / "small.toml"
    path.write_text(EXPERIMENT)
    return path


def test_results_of_one_file_agree_in_every_count(experiment_file: Path, tmp_path: Path) -> None:
    experiment = read_experiment(experiment_file)
    assert len(experiment.cells) == 2 * 2 * 2
    one = run_experiment(experiment, tmp_path / "one", n_processes=1, progress=False, traces=True)
    assert len(one) == 8 * 6 * 3 * 2
    text = (tmp_path / "one" / "table.csv").read_bytes()
    two = run_experiment(experiment, tmp_path / "two", n_processes=2, progress=False)
    assert two == one
    assert (tmp_path / "two" / "table.csv").read_bytes() == text
    # A run that was broken off goes on: what is there is not run again, what is not there is.
    cells = sorted((tmp_path / "one" / "cells").glob("*.json"))
    cells[0].unlink()
    marked = cells[1].read_text().replace('"policy": "clusters"', '"policy": "was there"')
    cells[1].write_text(marked)
    again = run_experiment(experiment, tmp_path / "one", n_processes=1, progress=False)
    assert [row for row in again if row["policy"] != "was there"] == [
        one[i] for i, row in enumerate(again) if row["policy"] != "was there"
    ]
    assert any(row["policy"] == "was there" for row in again)
    assert len(list((tmp_path / "one" / "traces").glob("*.msgpack"))) == 8 * 6


def test_the_page_needs_nothing_beside_it(experiment_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    text = experiment_file.read_text().replace("seeds = [0, 1]\n", "").replace(', "mine.py:backwards"', "")
    experiment_file.write_text(text)
    experiment = read_experiment(experiment_file)
    with pytest.raises(InvalidInput, match="run the experiment first"):
        read_table(tmp_path / "out")
    table = run_experiment(experiment, tmp_path / "out", n_processes=1, progress=False)
    assert read_table(tmp_path / "out") == [
        {key: pytest.approx(value) for key, value in row.items()} for row in table
    ]
    names = {path.name for path in write_pictures(experiment, tmp_path / "out")}
    assert names == {
        "recall-against-cost-s3_standard.png", "recall-against-cost-mine.png", "recall-by-filter.png",
        "round-trips.png", "cache-curves.png", "walk-0.png",
    }  # fmt: skip
    page = write_report(experiment, tmp_path / "out").read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "http" not in page.partition("<pre>")[0]
    with (tmp_path / "out" / "table.csv").open() as file:
        assert {row["policy"] for row in csv.DictReader(file)} <= set(re.findall(r"<td>([\w]+)", page))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "small"', 'nmae = "small"', "did you mean 'name'"),
        ("ef = 20", "eff = 20", "known are ef"),
        ("ef = 20", "ef = 0", "ef"),
        ("M = 6", "M = ", "TOML"),
        ('"cluster", "mine.py:backwards"', '"random"', "cuthill_mckee"),
        ("selectivity = [0.3, 0.05]", "selectivity = 2", "selectivity is 2"),
        ('"far"', '"sideways"', "near, none, far"),
        ('name = "fifo"', 'name = "lru"', "one name"),
        ('"s3_standard"', '"tape"', "s3_express"),
        ('kind = "log_normal"', 'kind = "normal"', "empirical"),
        ("queries = 6", "queries = 0", "queries"),
    ],
)
def test_a_wrong_file_is_told_apart(experiment_file: Path, old: str, new: str, says: str) -> None:
    assert old in EXPERIMENT
    experiment_file.write_text(EXPERIMENT.replace(old, new, 1))
    with pytest.raises(InvalidSetting, match=re.escape(says)):
        read_experiment(experiment_file)


def test_unknown_traversals_and_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="did you mean 'acorn1'"):
        traversal_of("acorn", tmp_path)
    with pytest.raises(InvalidSetting, match="no Python file"):
        traversal_of("nowhere.py:mine", tmp_path)
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(InvalidSetting, match="has no 'mine'"):
        traversal_of("empty.py:mine", tmp_path)
    with pytest.raises(InvalidSetting, match="eviction 'oldest'"):
        cache_of(CacheChoice(eviction="oldest"), tmp_path)
    with pytest.raises(InvalidSetting, match="clustered, fashion, file"):
        datasets.load({"kind": "words"})
    with pytest.raises(InvalidSetting, match="rowz"):
        datasets.load({"kind": "clustered", "rowz": 3})
    with pytest.raises(InvalidInput, match=r"does not exist"):
        datasets.load({"kind": "file", "path": str(tmp_path / "x.npy")})


def test_a_file_of_vectors_is_a_data_set(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).standard_normal((200, 5))
    np.save(tmp_path / "x.npy", stored)
    data = datasets.load({"kind": "file", "path": str(tmp_path / "x.npy"), "rows": 100})
    assert (data.vectors.shape, data.queries.shape, data.metric) == ((100, 5), (20, 5), "cosine")
    rows = {tuple(row) for row in data.vectors}
    assert not any(tuple(query) in rows for query in data.queries)


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_filters_pass_their_share_where_they_should(correlation: str) -> None:
    whole = index()
    workload = Workload(0.1, correlation)
    filters = Filters(workload, whole, seed=1)
    shares, gaps = [], []
    for place, query in enumerate(queries(12)):
        flags = bitmap.unpack(filters.of(place, query), whole.n)
        shares.append(flags.mean())
        distance = np.linalg.norm(whole.vectors - query, axis=1)
        gaps.append(distance[flags].mean() / distance.mean())
    assert 0.07 < np.mean(shares) < 0.13
    assert {"near": np.mean(gaps) < 0.85, "far": np.mean(gaps) > 1.1, "none": 0.9 < np.mean(gaps) < 1.1}[
        correlation
    ]


def test_the_same_rows_pass_in_any_id_order() -> None:
    whole = index()
    moved = whole.renumbered(np.random.default_rng(0).permutation(whole.n))
    for workload in (Workload(0.2, "far"), Workload(0.2, attributes=3), Workload(0.2, n_filters=2)):
        for place, query in enumerate(queries(3)):
            one = whole.rows[bitmap.indices(Filters(workload, whole, 1).of(place, query))]
            two = moved.rows[bitmap.indices(Filters(workload, moved, 1).of(place, query))]
            assert sorted(one.tolist()) == sorted(two.tolist())


def test_few_filters_come_again_and_streams_differ() -> None:
    whole, asked = index(), queries(40)
    filters = Filters(Workload(0.2, attributes=2, n_filters=3), whole, 1)
    packed = {filters.of(place, asked[0]).tobytes() for place in range(50)}
    assert len(packed) == 3
    uniform, skewed, shifting = (
        stream_of(Workload(stream=kind, shift_every=20), asked, whole, 200, seed=2)
        for kind in ("uniform", "skewed", "shifting")
    )
    assert set(uniform.tolist()) == set(range(40))
    counts = np.sort(np.bincount(skewed, minlength=40))
    assert counts[-5:].sum() > 2 * counts[:20].sum()
    assert np.array_equal(shifting[:20], skewed[:20])
    assert not np.array_equal(shifting[20:], skewed[20:])


def test_an_index_survives_its_file(tmp_path: Path) -> None:
    keep.save_index(index(), tmp_path / "x.npz")
    again = keep.load_index(tmp_path / "x.npz")
    for name in ("rows", "vectors", "neighbors", "codes", "centroids", "cluster_of"):
        assert np.array_equal(getattr(again, name), getattr(index(), name))
    assert again.code_params.inflation == index().code_params.inflation
    assert (again.upper.entry_rank, again.block_shift) == (index().upper.entry_rank, index().block_shift)
    again.upper.check(again.n)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_the_experiments_of_the_documentation_are_well_formed(path: Path) -> None:
    experiment = read_experiment(path)
    assert experiment.name == path.stem
    assert experiment.cells
