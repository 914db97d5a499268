"""Which images a server takes from a client: encoded bytes, and paths inside the collection's own images.

A file, a URL or another object of the store would be opened by the server for whoever names it. Only what the
operator has put under `images/<collection>/` of the store can be named, and it is read only where a re-ranker
of the server needs it.
"""

from __future__ import annotations

from typing import Any

from vstore.errors import InvalidDocument
from vstore.rerank.images import STORE_SCHEME

MAX_PATH_BYTES = 1024


def images_prefix(collection: str) -> str:
    """Return what the references of a collection's images begin with."""
    return f"{STORE_SCHEME}images/{collection}/"


def check_image(document: Any, where: str, collection: str | None = None) -> None:
    """Refuse an image that is a string, unless it is a path inside the collection's images.

    Args:
        document: as the face takes it.
        where: what it is, for the error.
        collection: whose images may be named; None takes encoded bytes alone.

    Raises:
        InvalidDocument: a file, a URL, a path elsewhere, or none that names one object.
    """
    image = document.get("image") if isinstance(document, dict) else None
    if not isinstance(image, str):
        return
    if collection is None:
        raise InvalidDocument(
            f"{where}: 'image' is a path or URL; a server takes encoded bytes: read the file and send those"
        )
    prefix = images_prefix(collection)
    if not image.startswith(prefix) or not _is_plain(image.removeprefix(prefix)):
        raise InvalidDocument(
            f"{where}: 'image' is a path or URL; a server takes encoded bytes, or {prefix}<path>, an object "
            f"that was put there (names without '..', of at most {MAX_PATH_BYTES} bytes)"
        )


def _is_plain(path: str) -> bool:
    """Whether a path names one object under its prefix, whatever the store makes of names."""
    parts = path.split("/")
    return (
        path.isprintable()
        and "\\" not in path
        and len(path.encode("utf-8", "surrogatepass")) <= MAX_PATH_BYTES
        and not any(part in ("", ".", "..") for part in parts)
    )
