"""What a verification found: a list, so that the first damage does not hide the rest."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from vstore.errors import FormatError, ObjectNotFound
from vstore.progress import Report


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not hold: `object` is the key in the store, `reason` what is wrong with it."""

    object: str
    reason: str


@dataclass(slots=True)
class VerifyReport:
    """What was read and what was wrong.

    `n_unnamed` counts objects that nothing names: leftovers of a crash, which are no problem. `n_rows` are
    the rows of the shards read, dead ones included.
    """

    collections: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    n_manifests: int = 0
    n_records: int = 0
    n_dead_bitmaps: int = 0
    n_shards: int = 0
    n_rows: int = 0
    n_unnamed: int = 0
    bytes_read: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything held."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain dicts, lists and numbers."""
        return {"ok": self.ok, **dataclasses.asdict(self)}


class Findings:
    """Collects into a report, and tells the progress in bytes.

    Args:
        report: filled.
        progress: called with (bytes read, bytes in all).
    """

    def __init__(self, report: VerifyReport, progress: Report) -> None:
        self.report = report
        self._progress = progress
        self._n_done = 0
        self._n_all = 0

    def expect_bytes(self, n_bytes: int) -> None:
        """Say that so many bytes more are going to be read."""
        self._n_all += n_bytes

    def read_bytes(self, n_bytes: int) -> None:
        """Say that so many bytes were read."""
        self.report.bytes_read += n_bytes
        self._n_done += n_bytes
        self._progress(min(self._n_done, self._n_all), self._n_all)

    def add(self, object: str, reason: str) -> None:
        """Note a problem; the same one of the same object only once."""
        problem = Problem(object, reason)
        if problem not in self.report.problems:
            self.report.problems.append(problem)

    def expect(self, condition: bool, object: str, reason: str) -> None:
        """Note a problem where the condition does not hold."""
        if not condition:
            self.add(object, reason)

    def of(self, object: str) -> Noting:
        """Note what the block raises about bytes or a missing object; a store that fails still raises."""
        return Noting(self, object)


class Noting:
    """A block whose errors about bytes become problems of one object."""

    def __init__(self, findings: Findings, object: str) -> None:
        self._findings = findings
        self._object = object

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, ObjectNotFound):
            self._findings.add(self._object, "the object is missing")
            return True
        if isinstance(error, FormatError):
            self._findings.add(self._object, str(error))
            return True
        if isinstance(error, (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)):
            # Checksums held, yet a part is missing or of the wrong kind.
            self._findings.add(self._object, f"a part is missing or of the wrong kind: {error!r}")
            return True
        return False
