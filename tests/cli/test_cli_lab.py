"""`vstore lab` from the command line: a small experiment to its page, and errors in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_run import Shell

SMALL = """
queries = 4
[[data]]
kind = "clustered"
rows = 400
dim = 6
[index]
M = 5
cluster_rows = 40
block_shift = 4
[[policy]]
traversal = ["result_filter", "exact"]
"""


def test_an_experiment_runs_to_its_page(shell: Shell, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file, out = tmp_path / "small.toml", str(tmp_path / "out")
    file.write_text(SMALL)
    ran = shell("lab", "run", str(file), "--out", out, "--processes", "1")
    assert ran.code == 0, ran.err
    assert "1 cell, 2 rows" in ran.out
    drawn = shell("lab", "plot", str(file), "--out", out)
    assert drawn.code == 0, drawn.err
    assert all(Path(line).read_bytes().startswith(b"\x89PNG") for line in drawn.out.split())
    page = shell("lab", "report", str(file), "--out", out)
    assert page.code == 0, page.err
    assert "<h1>small</h1>" in Path(page.out.strip()).read_text()


def test_a_wrong_file_is_one_line(shell: Shell, tmp_path: Path) -> None:
    ran = shell("lab", "run", str(tmp_path / "none.toml"))
    assert ran.code == 1
    assert "does not exist" in ran.err
    assert len(ran.err.splitlines()) == 1
