"""Keeps what a run of the object storage benchmark has measured, so that an interrupted one goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]


def source_digest() -> str:
    """Return a digest of the code that figures depend on."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    files = [*(here.parent / "vstore").rglob("*.py"), *(here.parent / "kernels").rglob("*.py")]
    for path in sorted([*files, *here.glob("object_*.py"), *here.glob("remote_*.py")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


class Kept:
    """Finished parts of one run, in a file that is written anew after each.

    Args:
        path: of the file; one of another run is replaced.
        asked: what the figures depend on: parts are used again only by a run that was asked the same.
    """

    def __init__(self, path: Path, asked: dict[str, Any]) -> None:
        self._path = path
        self._state: dict[str, Any] = {"asked": json.loads(json.dumps(asked)), "parts": {}, "notes": {}}
        if path.exists():
            found = json.loads(path.read_text())
            if found.get("asked") == self._state["asked"]:
                self._state = found

    @property
    def n_parts(self) -> int:
        """How many parts are finished."""
        return len(self._state["parts"])

    @property
    def notes(self) -> dict[str, Any]:
        """What parts found beside rows; kept with the next part."""
        notes: dict[str, Any] = self._state["notes"]
        return notes

    def has(self, part: str) -> bool:
        """Return whether a part is finished."""
        return part in self._state["parts"]

    def part(self, part: str, measure: Callable[[], Rows]) -> Rows:
        """Return the rows of a part, measured now where no run has finished it."""
        if not self.has(part):
            self._state["parts"][part] = measure()
            partial = self._path.with_name(self._path.name + ".part")
            partial.write_text(json.dumps(self._state, default=float))
            partial.replace(self._path)
        rows: Rows = self._state["parts"][part]
        return rows

    def done(self) -> None:
        """Forget: the run is over and its result written."""
        self._path.unlink(missing_ok=True)
