"""The shipped policies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from vstore.cache.policies.admission import AdmitAll, AdmitNone, AdmitSecond
from vstore.cache.policies.base import Admission, Eviction, Prefetch
from vstore.cache.policies.keep_first import KeepFirst
from vstore.cache.policies.lru import LRU
from vstore.cache.policies.pin_hubs import PinHubs
from vstore.cache.policies.prefetch import Adjacent, NoPrefetch
from vstore.cache.policies.s3_fifo import S3FIFO
from vstore.errors import InvalidSetting, nearest

T = TypeVar("T")

ADMISSIONS: Final[Mapping[str, Callable[[], Admission[Any]]]] = {
    "all": AdmitAll,
    "second": AdmitSecond,
    "none": AdmitNone,
}
EVICTIONS: Final[Mapping[str, Callable[[], Eviction[Any]]]] = {
    "lru": LRU,
    "s3_fifo": S3FIFO,
    "pin_hubs": PinHubs,
    "none": KeepFirst,
}
PREFETCHES: Final[Mapping[str, Callable[[], Prefetch[Any]]]] = {"none": NoPrefetch, "adjacent": Adjacent}


def policy_of(
    chosen: str | Callable[[], T], known: Mapping[str, Callable[[], T]], setting: str
) -> Callable[[], T]:
    """Return what makes a policy: the shipped one of a name, or a callable as it is.

    Args:
        chosen: a name, or what returns a new policy when called, such as its class.
        known: the shipped ones: `ADMISSIONS`, `EVICTIONS` or `PREFETCHES`.
        setting: the setting's name, for the message.

    Raises:
        InvalidSetting: no such name, or neither a name nor callable.
    """
    if isinstance(chosen, str):
        if chosen not in known:
            raise InvalidSetting(
                f"{setting} is {chosen!r}{nearest(chosen, known)}; it must be one of {', '.join(known)}, "
                "or a callable that returns a policy"
            )
        return known[chosen]
    if not callable(chosen):
        raise InvalidSetting(
            f"{setting} is {chosen!r}; it must be one of {', '.join(known)}, or a callable that returns a "
            "policy: pass the class, not an object of it, since each cache makes its own"
        )
    return chosen
