"""Pages of a listing, read by whoever reads ranges: ListObjectsV2's answer without boto3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from urllib3.exceptions import ProtocolError


@dataclass(frozen=True, slots=True)
class Page:
    """Names and sizes of objects, and the token of the next page, if there is one."""

    items: list[tuple[str, int]]
    next_token: str | None


@runtime_checkable
class ListsPages(Protocol):
    """An ObjectReader that lists too."""

    def page(self, params: Mapping[str, str]) -> Page | None:
        """Return a page; None where boto3 is to list, whose error is then the answer.

        Args:
            params: of ListObjectsV2: "prefix", "max-keys", "encoding-type", "continuation-token".

        Raises:
            ClientError, HTTPError: the answer was an error that may pass, or none, each time.
        """
        ...


def parse_page(body: bytes) -> Page:
    """Return the page that a server's answer holds.

    Raises:
        ProtocolError: it is no such answer.
    """
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        raise ProtocolError(f"the answer to a listing is no XML: {error}") from error
    space = root.tag[: root.tag.find("}") + 1]
    if root.tag != f"{space}ListBucketResult":
        raise ProtocolError(f"the answer to a listing is a {root.tag!r}")
    is_quoted = root.findtext(f"{space}EncodingType") == "url"
    items = []
    for item in root.iter(f"{space}Contents"):
        name, size = item.findtext(f"{space}Key"), item.findtext(f"{space}Size")
        if name is None or size is None or not size.isdigit():
            raise ProtocolError("the answer to a listing has an object without a name or a size")
        items.append((unquote_plus(name) if is_quoted else name, int(size)))
    is_cut = root.findtext(f"{space}IsTruncated") == "true"
    token = root.findtext(f"{space}NextContinuationToken")
    if is_cut and not token:
        raise ProtocolError("the answer to a listing has no token for the next page")
    return Page(items, token if is_cut else None)
