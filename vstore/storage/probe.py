"""Ask a store whether it is empty, and whether its create-only put is one, which some servers ignore."""

from __future__ import annotations

import secrets

from vstore.errors import ObjectExists, StorageError
from vstore.storage.base import ObjectStore, Peeking


def is_empty(store: ObjectStore) -> bool:
    """Return whether a store holds no object, by one small request where it can be asked so."""
    return store.first() is None if isinstance(store, Peeking) else not store.list()


def probe_create_only(store: ObjectStore, prefix: str = "") -> None:
    """Create a scratch object twice, with different bytes, and delete it: three or four requests.

    Args:
        store: the store to try.
        prefix: what the scratch object's key begins with, "" or ending in "/".

    Raises:
        StorageError: the second creation was not refused.
        AccessDenied, BucketNotFound, StoreUnavailable: as the store does.
    """
    key = f"{prefix}probe-{secrets.token_hex(8)}"
    store.put_if_absent(key, b"first " + secrets.token_bytes(8))
    try:
        store.put_if_absent(key, b"second " + secrets.token_bytes(8))
    except ObjectExists:
        return
    finally:
        store.delete([key])
    raise StorageError(
        f"{store.url}: the server ignores If-None-Match: *, so two writers could both commit; "
        "use one that has conditional writes (AWS S3, SeaweedFS and Ceph have them)"
    )
