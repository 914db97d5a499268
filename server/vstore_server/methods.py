"""The methods of the service: who may call each, on which threads it runs; and one call while it runs."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vstore_server.auth import Caller, Role
from vstore_server.errors import Cancelled

Kind = Literal["unary", "progress", "stream", "scan", "calls"]
_REQUEST_ID = re.compile(r"[0-9A-Za-z._-]{1,64}")
LaneName = Literal["search", "rerank", "write", "upkeep"]
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Method:
    """How a method is called, by whom, and on which threads."""

    name: str
    role: Role
    lane: LaneName
    kind: Kind = "unary"


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("Connect", "read", "search"),
        Method("ListCollections", "read", "search"),
        Method("CreateCollection", "admin", "write"),
        Method("DropCollection", "admin", "write"),
        Method("Describe", "read", "search"),
        Method("Upsert", "write", "write"),
        Method("UpsertStream", "write", "write", "stream"),
        Method("Update", "write", "write"),
        Method("Delete", "write", "write"),
        Method("Get", "read", "search"),
        Method("Count", "read", "search"),
        Method("Search", "read", "search"),
        Method("SearchBatch", "read", "search"),
        Method("Explain", "read", "search"),
        Method("Scan", "read", "search", "scan"),
        Method("Refresh", "read", "search"),
        Method("Flush", "write", "upkeep", "progress"),
        Method("Compact", "admin", "upkeep", "progress"),
        Method("Warm", "read", "upkeep", "progress"),
        Method("AddField", "admin", "write"),
        Method("DropField", "admin", "write"),
        Method("Snapshots", "read", "search"),
        Method("Tag", "write", "upkeep", "progress"),
        Method("Untag", "write", "write"),
        Method("Restore", "admin", "upkeep"),
        Method("Fusions", "read", "search"),
        Method("GetFusion", "read", "search"),
        Method("PutFusion", "admin", "write"),
        Method("DeleteFusion", "admin", "write"),
        Method("CollectGarbage", "admin", "upkeep"),
        Method("Verify", "admin", "upkeep", "progress"),
    )
}
"""Every method of the service, by the name in its path."""


SEARCH = METHODS["Search"]
CALLS = Method("Calls", "read", "search", "calls")
"""The stream that carries unary reads, one after the other (`callstream`)."""
FRAMES = Method("Frames", "read", "search", "calls")
"""The stream that carries many of them in a message (`framestream`)."""


class Call:
    """One request while it runs: who asked, whether they still wait, and where progress goes."""

    def __init__(
        self,
        caller: Caller,
        report: Report = lambda done, total: None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.caller = caller
        self.report = report
        self.collection: str | None = None
        """What it is about, as far as it was read."""
        self.receipt_parts: Sequence[Mapping[str, Any]] = ()
        """Of its search's receipt, as it travels."""
        self._metadata = metadata or {}
        self._request_id: str | None = None
        self._cancelled = False

    def another(self) -> Call:
        """Return one more request of the same caller, over the same stream."""
        return Call(self.caller, self.report, self._metadata)

    @property
    def receipt(self) -> dict[str, Any] | None:
        """The receipt of its search, as it travels."""
        merged: dict[str, Any] = {}
        for part in self.receipt_parts:
            merged |= part
        return merged or None

    @property
    def request_id(self) -> str:
        """The caller's id of the request, or one that is made up; it is in answers and logs."""
        if self._request_id is None:
            given = self._metadata.get("x-request-id", "")
            self._request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex[:16]
        return self._request_id

    @property
    def traceparent(self) -> str | None:
        """The caller's span, in the W3C's form."""
        return self._metadata.get("traceparent")

    def cancel(self) -> None:
        """Note that nobody waits for the answer any more."""
        self._cancelled = True

    def check(self) -> None:
        """Raise Cancelled where nobody waits."""
        if self._cancelled:
            raise Cancelled("the caller gave up")
