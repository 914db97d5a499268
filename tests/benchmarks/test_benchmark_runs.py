"""Whole runs on tiny data: a command's JSON holds what its table is made from, and absent peers are named."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import arguments, build, datasets, filter_grid, plots, report, runner, unfiltered
from benchmarks.datasets import Dataset, cache, fashion, load
from benchmarks.peers import PEERS, peer_class
from benchmarks.runner import Plan

PLAN = Plan(repeats=1, n_queries=40, point_s=0.001, sweep_s=1.0)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((1500, 16)).astype(np.float32)
    queries = rng.standard_normal((60, 16)).astype(np.float32)
    np.save(tmp_path / "X.npy", points)
    np.save(tmp_path / "Q.npy", queries)
    return Dataset("tiny", tmp_path, points, queries)


def read_back(result: dict[str, Any], path: Path) -> dict[str, Any]:
    report.write(result, path)
    stored: dict[str, Any] = json.loads(path.read_text())
    assert stored["schema"] == report.SCHEMA
    for key in ("benchmark", "command", "at", "machine", "versions", "dataset", "plan", "builds", "absent"):
        assert key in stored
    assert {"cpu", "features", "cores"} <= set(stored["machine"])
    assert {"vstore", "numba", "numpy", "python"} <= set(stored["versions"])
    return stored


def test_an_exact_peer_reaches_every_recall(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = read_back(unfiltered.run(dataset, ["numpy-exact"], PLAN, "qps"), tmp_path / "out.json")
    (row,) = result["summary"]
    assert row["peer"] == "numpy-exact"
    assert row["best_recall"] == 1.0
    assert row["levels"]["0.99"]["qps"] > 0
    assert row["levels"]["0.95"]["to_base"] is None
    unfiltered.show(result)
    assert "numpy-exact" in capsys.readouterr().out


def test_vstore_answers_the_grid_at_least_as_well_as_it_is_asked(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = filter_grid.run(dataset, ["vstore", "numpy-exact"], PLAN, "qps", (0.5, 0.01))
    stored = read_back(result, tmp_path / "out.json")
    assert stored["absent"] == {}
    assert stored["grid"]["columns"] == ["far", "none", "near"]
    assert len(stored["grid"]["recall"]) == 2
    for cell in stored["cells"]:
        assert cell["default_recall"] >= 0.9, cell
        # The exact product is a floor beside the peers, not one of them.
        assert cell["best_peer"] is None
        assert cell["ratio"] is None
        assert cell["product_ratio"] > 0
    assert {point["recall"] for point in stored["points"] if point["peer"] == "numpy-exact"} == {1.0}
    filter_grid.show(stored)
    assert "far 50%" in capsys.readouterr().out


def test_builds_are_reported_with_ratios_to_the_base(dataset: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("hnswlib", reason="the base of the ratios is not installed")
    result = read_back(build.run(dataset, ["hnswlib"], PLAN), tmp_path / "out.json")
    (row,) = result["summary"]
    assert row["to_base"] == 1.0
    assert row["vectors_per_s"] > 0
    assert row["recall"] > 0.9


def test_a_peer_that_is_not_there_is_named_with_the_reason(dataset: Dataset) -> None:
    if importlib.util.find_spec("svs"):
        pytest.skip("scalable-vs is installed here")
    result = unfiltered.run(dataset, ["svs-vamana", "numpy-exact"], PLAN, "qps")
    assert "svs" in result["absent"]["svs-vamana"]
    assert "svs-vamana" not in result["builds"]
    assert [row["peer"] for row in result["summary"]] == ["numpy-exact"]


@pytest.mark.parametrize(
    "peer", ["hnswlib", "faiss-hnsw-sq8", "symphonyqg", "usearch", "qdrant", "zvec-fp32"]
)
def test_peers_find_what_is_there(dataset: Dataset, peer: str) -> None:
    module = {"symphonyqg": "rabitqlib", "qdrant": "qdrant_edge", "zvec-fp32": "zvec"}.get(peer, peer)
    pytest.importorskip("faiss" if "faiss" in peer else module, reason=f"{peer} is not installed")
    result = unfiltered.run(dataset, [peer], PLAN, "qps")
    assert result["absent"] == {}
    assert result["summary"][0]["best_recall"] > 0.9


def test_every_peer_has_an_adapter_that_says_how_it_is_called() -> None:
    for name in PEERS:
        adapter = peer_class(name)
        assert adapter.note
        assert adapter.package
    with pytest.raises(ValueError, match="none of"):
        peer_class("nobody")


def test_pictures_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    facts = {"dataset": {"name": "tiny", "rows": 9, "dim": 2}, "machine": {"cpu": "a"}, "clock": "qps"}
    points = [{"peer": "vstore", "recall": recall, "qps": 10 / recall} for recall in (0.9, 0.99)]
    plots.frontiers(facts | {"points": points}, tmp_path / "f.png")
    grid = {"rows": ["50%"], "columns": ["far"], "recall": [[0.99]], "ratio": [[None]]}
    plots.heat_maps(facts | {"grid": grid}, tmp_path / "h.png")
    summary = [{"peer": "vstore", "vectors_per_s": 5.0, "grown_bytes": 2**20}]
    plots.bars(facts | {"summary": summary, "plan": {"build_threads": 1}}, tmp_path / "b.png")
    for name in ("f", "h", "b"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_a_sweep_keeps_for_its_repeats_what_is_near_the_reported_recalls() -> None:
    reached = [({"ef": ef}, recall) for ef, recall in ((10, 0.5), (16, 0.8), (24, 0.9), (40, 0.99))]
    assert runner.worth_repeating(reached) == [{"ef": 16}, {"ef": 24}, {"ef": 40}]


def test_files_go_where_they_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path))
    assert cache.root() == tmp_path
    made = load("clustered", 600)
    assert made.points.shape == (600, 128)
    assert made.folder == tmp_path / "clustered-600"
    assert (load("clustered", 600).points == made.points).all()
    assert made.truth(5).shape == (len(made.queries), 5)
    with pytest.raises(ValueError, match="at least 1"):
        load("clustered", 0)
    with pytest.raises(ValueError, match="fashion"):
        load("nothing")


def test_a_missing_data_set_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv(fashion.FOLDER_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(RuntimeError, match="dataset-fashion-mnist"):
        load("fashion", 100)


def test_options_name_unknown_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = arguments.parser("", "unfiltered")
    with pytest.raises(SystemExit, match="nobody"):
        arguments.chosen_peers(parser.parse_args(["--peers", "nobody"]))
    quick = parser.parse_args(["--quick"])
    assert "vstore" in arguments.chosen_peers(quick)
    assert arguments.out_path(quick, "unfiltered").name == "unfiltered-fashion-quick.json"
    monkeypatch.setattr(sys, "argv", ["x", "--python", "/some/where/python", "--quick"])
    assert report.command("unfiltered") == "python -m benchmarks.unfiltered --python python --quick"
    assert datasets.NAMES == ("fashion", "clustered", "sentences")
