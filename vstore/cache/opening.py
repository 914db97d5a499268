"""The cache of a connection, made as its settings say."""

from __future__ import annotations

import os

from vstore.cache.blocks import BlockCache
from vstore.cache.disk import DiskTier
from vstore.cache.policies.choice import ADMISSIONS, EVICTIONS, PREFETCHES, policy_of
from vstore.settings import Settings


def open_cache(settings: Settings, cache_dir: str | os.PathLike[str] | None) -> BlockCache:
    """Return an empty memory tier over the disk tier in `cache_dir`, if one is given.

    Raises:
        InvalidSetting: no policy of that name, a negative limit, or a folder that is a file.
    """
    eviction = policy_of(settings.cache_eviction, EVICTIONS, "cache_eviction")
    admission = policy_of(settings.cache_admission, ADMISSIONS, "cache_admission")
    prefetch = policy_of(settings.cache_prefetch, PREFETCHES, "cache_prefetch")
    disk_admission = policy_of(settings.disk_cache_admission, ADMISSIONS, "disk_cache_admission")
    disk = None
    if cache_dir is not None:
        disk = DiskTier(cache_dir, settings.disk_cache_bytes, disk_admission())
    return BlockCache(
        settings.cache_bytes, disk, eviction=eviction, admission=admission(), prefetch=prefetch()
    )
