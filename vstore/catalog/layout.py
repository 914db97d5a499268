"""Names of objects in a store. docs/FORMAT.md is the authority.

vstore.json                                       what makes the place a store
catalog/<name>/<version>                          manifests, 20 digits
latest/<name>                                     a copy of the latest manifest, or of one before it
data/<name>/<collection id>/log/<seq>             log records, 20 digits
data/<name>/<collection id>/shards/<shard id>.shard
data/<name>/<collection id>/dead/<shard id>.<id>  rows dead since their shard was built
data/<name>/<collection id>/pins/tag.<tag>        a manifest that is kept under a name
data/<name>/<collection id>/pins/lease.<id>       a version that somebody reads
data/<name>/<collection id>/fusions/<fusion>      a learned fusion of re-ranking signals
"""

from __future__ import annotations

import re

from vstore.errors import InvalidSetting

MARKER = "vstore.json"
CATALOG = "catalog/"

_NUMBER = re.compile(r"[0-9]{20}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_name(name: object) -> str:
    """Return a collection's name.

    Raises:
        InvalidSetting: it is none.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidSetting(
            f"collection name {name!r}: use 1 to 128 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    return name


def manifest_prefix(name: str) -> str:
    """Return what the names of a collection's manifests begin with."""
    return f"{CATALOG}{name}/"


def manifest_key(name: str, version: int) -> str:
    """Return the name of one manifest."""
    return f"{manifest_prefix(name)}{version:020d}"


def latest_key(name: str) -> str:
    """Return the name of the copy of a collection's latest manifest."""
    return f"latest/{name}"


def number_of(tail: str) -> int | None:
    """Return the version or sequence number that an object's name ends in; None where it is no such name."""
    return int(tail) if _NUMBER.fullmatch(tail) else None


def all_data_prefix(name: str) -> str:
    """Return what the names of all data begin with, of every collection that ever had this name."""
    return f"data/{name}/"


def data_prefix(name: str, collection_id: str) -> str:
    """Return what the names of all of a collection's data begin with."""
    return f"data/{name}/{collection_id}/"


def log_prefix(name: str, collection_id: str) -> str:
    """Return what the names of a collection's log records begin with."""
    return f"{data_prefix(name, collection_id)}log/"


def log_key(prefix: str, seq: int) -> str:
    """Return the name of log record `seq` under `prefix`, which ends in "/"."""
    return f"{prefix}{seq:020d}"


def shard_key(name: str, collection_id: str, shard_id: str) -> str:
    """Return the name of a shard."""
    return f"{data_prefix(name, collection_id)}shards/{shard_id}.shard"


def dead_key(name: str, collection_id: str, shard_id: str, unique: str) -> str:
    """Return the name of one version of a shard's dead rows."""
    return f"{data_prefix(name, collection_id)}dead/{shard_id}.{unique}"


def pin_prefix(name: str, collection_id: str) -> str:
    """Return what the names of a collection's tags and leases begin with."""
    return f"{data_prefix(name, collection_id)}pins/"


def tag_key(name: str, collection_id: str, tag: object) -> str:
    """Return the name of a tag.

    Raises:
        InvalidSetting: it is none.
    """
    if not isinstance(tag, str) or not _NAME.fullmatch(tag):
        raise InvalidSetting(
            f"tag {tag!r}: use 1 to 128 letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )
    return f"{pin_prefix(name, collection_id)}tag.{tag}"


def lease_key(name: str, collection_id: str, unique: str) -> str:
    """Return the name of a lease."""
    return f"{pin_prefix(name, collection_id)}lease.{unique}"


def fusion_prefix(name: str, collection_id: str) -> str:
    """Return what the names of a collection's learned fusions begin with."""
    return f"{data_prefix(name, collection_id)}fusions/"
