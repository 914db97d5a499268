"""The filter grid's page says what its result files say."""

from __future__ import annotations

from benchmarks.lab_pages import GRIDS, LAB, filled, short
from vstore.lab.report import read_rows


def test_the_tables_of_the_grids_page_are_those_of_its_results() -> None:
    page = (LAB / "grid.md").read_text()
    grids = {name: read_rows(LAB / "results" / file) for name, file in GRIDS.items()}
    assert filled(page, grids) == page
    # Another figure in a result is another table in the page.
    next(iter(grids.values()))[0]["recall"] = 0.123
    assert ".12 " in filled(page, grids)
    assert [short(value) for value in (1.0, 0.999, 0.97, 0.0)] == ["1.00", "1.00", ".97", ".00"]
