"""An interrupted run of the object storage benchmark goes on where it was, and only for the same question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.object_kept import Kept
from benchmarks.object_s3 import climb


def test_finished_parts_are_not_measured_again(tmp_path: Path) -> None:
    path, measured = tmp_path / "run.json", []

    def rows(name: str) -> Any:
        def measure() -> list[dict[str, Any]]:
            measured.append(name)
            if name == "broken":
                raise KeyboardInterrupt
            return [{"name": name, "ms": 1.5}]

        return measure

    first = Kept(path, {"queries": 5, "shares": (0.1, 0.01)})
    first.notes["version"] = "1"
    assert first.part("a", rows("a")) == [{"name": "a", "ms": 1.5}]
    with pytest.raises(KeyboardInterrupt):
        first.part("b", rows("broken"))
    second = Kept(path, {"queries": 5, "shares": (0.1, 0.01)})
    assert second.n_parts == 1
    assert second.notes == {"version": "1"}
    assert second.part("a", rows("a")) == [{"name": "a", "ms": 1.5}]
    assert second.part("b", rows("b")) == [{"name": "b", "ms": 1.5}]
    assert measured == ["a", "broken", "b"]
    assert Kept(path, {"queries": 6, "shares": (0.1, 0.01)}).n_parts == 0
    second.done()
    assert Kept(path, {"queries": 5, "shares": (0.1, 0.01)}).n_parts == 0


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("needed", range(5))
def test_the_climb_ends_on_the_cheapest_rung_that_does(start: int, needed: int) -> None:
    asked: list[int] = []

    def reaches(rung: int) -> bool:
        asked.append(rung)
        return rung >= needed

    assert climb(4, start, reaches) == min(needed, 3)
    assert len(asked) == len(set(asked))
