"""What a re-ranker reads: the query's and the documents' text and image, however they were given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from vstore.errors import InvalidInput, InvalidSetting, nearest
from vstore.types import Candidate, Hit

_PARTS = ("text", "image")


def candidate_of(hit: Hit) -> Candidate:
    """Return a hit as a re-ranker sees it: a document of blank text has no text."""
    document = hit.document or {}
    text = document.get("text")
    image = document.get("image")
    return Candidate(
        id=hit.id,
        text=text if isinstance(text, str) and text.strip() else None,
        image=image or None if isinstance(image, (str, bytes)) else image,
        attributes=hit.attributes,
        first_score=hit.first_score,
        first_rank=hit.first_rank,
    )


def document_text(document: Candidate, fields: Sequence[str] = ()) -> str | None:
    """Return a document's text, preceded by the attributes named in `fields`, one part a line.

    A list of strings becomes one line; null attributes and those that are no strings are left out.
    None where nothing is left.
    """
    parts: list[str] = []
    for name in fields:
        value = document.attributes.get(name)
        if isinstance(value, str):
            parts.append(value)
        elif isinstance(value, (list, tuple)):
            parts.append(" ".join(item for item in value if isinstance(item, str)))
    parts.append(document.text or "")
    return "\n".join(part for part in parts if part.strip()) or None


def check_query(query_document: Any) -> None:
    """Check that a query document is something that a re-ranker can read.

    It is a text; an image as encoded bytes, a path (`pathlib`) or a PIL image; or a dict of both.

    Raises:
        InvalidInput: it is missing, empty, or something else.
    """
    if query_document is None:
        raise InvalidInput(
            "rerank= needs the query itself, and only its vector was given; "
            "pass query_document=, the query's own text or image"
        )
    if isinstance(query_document, Mapping):
        unknown = [part for part in query_document if part not in _PARTS]
        if unknown:
            raise InvalidInput(
                f"query_document has {unknown[0]!r}{nearest(str(unknown[0]), _PARTS)}; "
                'it is a text, an image, or {"text": ..., "image": ...}'
            )
    text, image = _split(query_document)
    if text is not None and not isinstance(text, str):
        raise InvalidInput(f"query_document's text is a {type(text).__name__}; it must be a str")
    if image is not None and not _is_image(image):
        raise InvalidInput(
            f"query_document is a {type(image).__name__}; give the query's text (str), its image "
            '(encoded bytes, a pathlib path or a PIL image), or {"text": ..., "image": ...}'
        )
    if image is None and not (text and text.strip()):
        raise InvalidInput("query_document is empty; pass the query's own text or image")


def query_parts(query: Any) -> tuple[str | None, Any]:
    """Return a checked query document as (text or None, image or None).

    Raises:
        InvalidInput: as `check_query`.
    """
    check_query(query)
    text, image = _split(query)
    return (text if text and text.strip() else None), image


def query_text(query: Any, reader: str) -> str:
    """Return a query document's text.

    Args:
        query: a query document.
        reader: the re-ranker's name, for the message.

    Raises:
        InvalidInput: it has no text; or as `check_query`.
    """
    text, _ = query_parts(query)
    if text is None:
        raise InvalidInput(
            f"{reader} reads text and query_document is an image alone; "
            'pass query_document="..." or {"text": ..., "image": ...}'
        )
    return text


def _split(query: Any) -> tuple[Any, Any]:
    if isinstance(query, Mapping):
        image = query.get("image")
        return query.get("text"), (None if isinstance(image, (bytes, str)) and not image else image)
    if isinstance(query, str):
        return query, None
    return None, (None if isinstance(query, bytes) and not query else query)


def _is_image(value: Any) -> bool:
    # A PIL image is known by what the models call on it, so that Pillow need not be installed.
    return isinstance(value, (bytes, str, PathLike)) or (hasattr(value, "mode") and hasattr(value, "convert"))


def check_fields(fields: Sequence[str]) -> tuple[str, ...]:
    """Return attribute names as a tuple.

    Raises:
        InvalidSetting: it is one str, or holds something else.
    """
    if isinstance(fields, str) or not all(isinstance(name, str) for name in fields):
        raise InvalidSetting(f"fields is {fields!r}; it must be a list of attribute names, as ['title']")
    return tuple(fields)


def encodable(text: str) -> str:
    """Return a text that is UTF-8: a Python str may hold half of a surrogate pair, tokenizers may not."""
    return text.encode("utf-8", "replace").decode("utf-8")
