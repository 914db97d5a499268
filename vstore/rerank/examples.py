"""Queries that a re-ranker helped and hurt most, shown: photos before and after, or texts in a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vstore.errors import InvalidInput
from vstore.rerank.documents import query_parts
from vstore.rerank.evaluation import EvalQuery, Evaluation, QueryResult, new_figure
from vstore.rerank.images import ImageReader
from vstore.types import Key

SHOWN = 8
"""Photos of an answer, in a picture."""
LISTED = 5
"""Texts of an answer, in a table."""
EXCERPT = 90
"""Characters of a text."""
SIDE = 160
"""Pixels of a photo's longer side, at most."""
QUALITY = 80
"""Of a JPEG."""
RIGHT, WRONG = "#2a9d3a", "#d62828"
"""Frames."""


def examples(found: Evaluation, n: int = 4) -> list[QueryResult]:
    """Return n queries of an evaluation that changed most: those helped first, then those hurt.

    Half of each where there are so many; queries that did not change are never among them.
    """
    by_gain = sorted(found.queries, key=lambda each: each.ndcg_before - each.ndcg_after)
    helped = [each for each in by_gain if each.ndcg_after > each.ndcg_before]
    hurt = [each for each in reversed(by_gain) if each.ndcg_after < each.ndcg_before]
    n_hurt = min(len(hurt), max(n // 2, n - len(helped)))
    return [*helped[: n - n_hurt], *reversed(hurt[:n_hurt])]


def asked_of(query: EvalQuery) -> str:
    """Return a query in a line: its text, and its filter."""
    text, _ = query_parts(query.document)
    asked = f'"{_cut(text)}"' if text else f"the image of query {query.id}"
    return f"{asked} where {query.filter}" if query.filter else asked


def list_examples(
    shown: Sequence[QueryResult],
    queries: Mapping[str, EvalQuery],
    documents: Mapping[Key, Mapping[str, Any] | None],
) -> str:
    """Return Markdown: for each query its first documents before and after; relevant ones are in bold."""
    return "\n".join(line for each in shown for line in _lines(each, queries[each.id], documents))


def _lines(
    each: QueryResult, query: EvalQuery, documents: Mapping[Key, Mapping[str, Any] | None]
) -> Iterator[str]:
    yield f"**{asked_of(query)}**: {each.change}"
    yield ""
    yield "| | before | after |"
    yield "| --- | --- | --- |"
    sides = [[_cell(key, query, documents.get(key)) for key in ids] for ids in (each.before, each.after)]
    for place in range(min(LISTED, max(map(len, sides)))):
        before, after = (side[place] if place < len(side) else "" for side in sides)
        yield f"| {place + 1} | {before} | {after} |"
    yield ""


def _cell(key: Key, query: EvalQuery, document: Mapping[str, Any] | None) -> str:
    text = (document or {}).get("text")
    said = f"{key}: {_cut(text)}" if isinstance(text, str) and text.strip() else str(key)
    said = said.replace("|", "\\|")
    return f"**{said}**" if query.relevant.get(key, 0) > 0 else said


def _cut(text: str | None) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= EXCERPT else f"{line[:EXCERPT].rsplit(' ', 1)[0]} ..."


def draw_examples(
    shown: Sequence[QueryResult],
    queries: Mapping[str, EvalQuery],
    documents: Mapping[Key, Mapping[str, Any] | None],
    path: Path,
    reader: ImageReader | None = None,
) -> bool:
    """Write a picture of photos: for each query the first ones before, and below them after.

    Relevant photos have a green frame, others a red one; what cannot be read is left white.

    Args:
        shown: from `examples`.
        queries: by id.
        documents: by key; `image` is read as a re-ranker would.
        path: of the picture; its ending says the format.
        reader: opens the images.

    Returns:
        Whether there was a photo to show, and so a picture.

    Raises:
        MissingDependency: matplotlib or Pillow cannot be imported.
    """
    figure = new_figure(8.8, 2.35 * len(shown))
    photos = _photos(shown, documents, reader or ImageReader())
    if not photos:
        return False
    parts = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for part, each in zip(parts, shown, strict=True):
        query = queries[each.id]
        part.suptitle(f"{asked_of(query)}: {each.change}", fontsize=9)
        for axes, name, ids in zip(
            part.subplots(2, SHOWN), ("before", "after"), (each.before, each.after), strict=True
        ):
            axes[0].set_ylabel(name, fontsize=8)
            for axis in axes:
                axis.set(xticks=[], yticks=[])
            for axis, key in zip(axes, ids, strict=False):
                if key in photos:
                    axis.imshow(photos[key])
                for spine in axis.spines.values():
                    spine.set(color=RIGHT if query.relevant.get(key, 0) > 0 else WRONG, linewidth=3)
            for axis in axes[len(ids) :]:
                axis.set_axis_off()
    figure.savefig(path, dpi=90, pil_kwargs={"quality": QUALITY})
    return True


def _photos(
    shown: Sequence[QueryResult],
    documents: Mapping[Key, Mapping[str, Any] | None],
    reader: ImageReader,
) -> dict[Key, Any]:
    """Return the photos of the answers that can be read, as thumbnails."""
    photos: dict[Key, Any] = {}
    for key in {key for each in shown for key in (*each.before[:SHOWN], *each.after[:SHOWN])}:
        image = (documents.get(key) or {}).get("image")
        if not image:
            continue
        try:
            photo = reader.decode(image)
        except InvalidInput:
            continue
        photo.thumbnail((SIDE, SIDE))
        photos[key] = photo
    return photos
