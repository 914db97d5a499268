"""What the demo asks: questions as people put them, filters in both syntaxes."""

from __future__ import annotations

from dataclasses import dataclass

from vstore.filters import F, FilterLike


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `written` is its filter as a program would write it, "" for none."""

    text: str
    filter: FilterLike = None
    written: str = ""


ARCHIVE = "open a compressed archive and list its members"

QUESTIONS = (
    Question(ARCHIVE),
    Question(
        ARCHIVE,
        F.kind.isin(["function", "method"]) & (F.lines < 80) & (F.public == True),  # noqa: E712 - a field, not a bool
        'F.kind.isin(["function", "method"]) & (F.lines < 80) & (F.public == True)',
    ),
    Question(
        ARCHIVE,
        {"package": "zipfile", "kind": {"$in": ["class", "method"]}, "lines": {"$lt": 400}},
        '{"package": "zipfile", "kind": {"$in": ["class", "method"]}, "lines": {"$lt": 400}}',
    ),
    Question(
        "run a coroutine with a timeout and cancel it when it is too slow",
        (F.package == "asyncio") & ~(F.kind == "module"),
        '(F.package == "asyncio") & ~(F.kind == "module")',
    ),
    Question(
        "retry a failed request with exponential backoff",
        {"$or": [{"package": {"$startsWith": "boto"}}, {"package": {"$in": ["s3transfer", "urllib3"]}}],
         "$not": {"kind": "module"}},
        '{"$or": [{"package": {"$startsWith": "boto"}}, {"package": {"$in": ["s3transfer", "urllib3"]}}],'
        ' "$not": {"kind": "module"}}',
    ),
    Question(
        "smooth a noisy signal with a gaussian filter",
        F.names.contains("sigma") & (F.kind == "function"),
        'F.names.contains("sigma") & (F.kind == "function")',
    ),
)  # fmt: skip
