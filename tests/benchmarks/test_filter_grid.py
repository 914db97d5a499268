"""Filters of the grid: they pass the share that they say, where they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.clauses import clause_mask
from benchmarks.datasets import Dataset
from benchmarks.datasets.truth import nearest
from benchmarks.filters import SHARES, Filter, Grid, crossed_filters, grid_filters, grid_of
from benchmarks.peers import Passing

N = 4000


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((N, 12)).astype(np.float32)
    queries = rng.standard_normal((80, 12)).astype(np.float32)
    return Dataset("tiny", tmp_path_factory.mktemp("tiny"), points, queries)


@pytest.fixture(scope="module")
def grid(dataset: Dataset) -> Grid:
    return grid_of(dataset)


def test_every_cell_of_the_grid_passes_its_share(grid: Grid) -> None:
    filters = grid_filters()
    assert len(filters) == 3 * len(SHARES)
    for each in filters:
        (clause,) = each.clauses
        share = SHARES[clause.value]  # type: ignore[index]
        assert each.mask(grid.columns).sum() == max(1, round(share * N)), each.name


def test_near_rows_are_nearer_the_group_than_far_rows(dataset: Dataset, grid: Grid) -> None:
    pivot = dataset.queries[grid.group].mean(axis=0)
    distances = np.linalg.norm(dataset.points - pivot, axis=1)
    near, far = (
        Filter("", grid_filters()[i].clauses).mask(grid.columns)
        for i in (2 * len(SHARES), 0)  # near 50 % and far 50 %
    )
    assert distances[near].max() <= distances[far].min()
    assert (near ^ far).all()


def test_filters_across_attributes_are_what_numpy_says(grid: Grid) -> None:
    columns = grid.columns
    by_name = {each.name: each.mask(columns) for each in crossed_filters(grid)}
    tenth = SHARES.index(0.1)
    assert (by_name["not near 10%"] == ~(columns["near"] <= tenth)).all()
    both = (columns["near"] <= SHARES.index(0.2)) & (columns["none"] <= SHARES.index(0.2))
    assert (by_name["near 20% and none 20%"] == both).all()
    for name, mask in by_name.items():
        assert 0 < mask.sum() < N, name


def test_a_filter_reads_back_from_its_json(grid: Grid) -> None:
    for each in (*grid_filters(), *crossed_filters(grid)):
        stored = each.to_json()
        # As it comes out of JSON, tuples being lists there.
        stored["clauses"] = [
            [field, op, list(value) if isinstance(value, tuple) else value]
            for field, op, value in stored["clauses"]
        ]
        assert Filter.from_json(stored) == each


def test_the_grid_is_the_same_when_it_is_read_again(dataset: Dataset, grid: Grid) -> None:
    again = grid_of(dataset)
    assert (again.group == grid.group).all()
    for name, column in grid.columns.items():
        assert column.dtype == np.int32
        assert (again.columns[name] == column).all()


def test_truth_under_a_filter_is_exact_and_kept(dataset: Dataset, grid: Grid) -> None:
    chosen = grid_filters()[3]
    found = grid.truth(dataset, chosen)
    expected, _ = nearest(dataset.points, dataset.queries[grid.group], 10, chosen.mask(grid.columns))
    assert (found == expected).all()
    assert grid.truth_path(chosen).exists()
    assert grid.truth_path(chosen) != grid.truth_path(grid_filters()[4])


def test_stores_read_the_same_filter_as_sql() -> None:
    mask = np.ones(1, bool)
    passing = Passing([("near", "le", 3), ("far", "not_le", 2), ("cell", "in", (1, 5))], mask)
    assert passing.sql() == "near <= 3 and far > 2 and cell in (1, 5)"


def test_an_unknown_operator_is_refused() -> None:
    with pytest.raises(ValueError, match="one of le, not_le, in"):
        clause_mask(np.zeros(3, np.int32), "like", 1)


def test_caches_are_named_by_what_is_asked(dataset: Dataset) -> None:
    assert grid_of(dataset, 1).folder != grid_of(dataset, 2).folder
    assert isinstance(dataset.folder, Path)
