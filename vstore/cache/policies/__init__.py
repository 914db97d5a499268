"""Cache policies: three protocols, those shipped, and the books that they are kept by.

`base` has the protocols, `residency` replays keys and sizes against any of them without a store.
docs/CACHE.md shows how to write one.
"""

from vstore.cache.policies.admission import AdmitAll, AdmitNone, AdmitSecond
from vstore.cache.policies.base import Admission, Eviction, Prefetch
from vstore.cache.policies.choice import ADMISSIONS, EVICTIONS, PREFETCHES, policy_of
from vstore.cache.policies.keep_first import KeepFirst
from vstore.cache.policies.lru import LRU
from vstore.cache.policies.pin_hubs import PinHubs
from vstore.cache.policies.prefetch import Adjacent, NoPrefetch
from vstore.cache.policies.residency import Residency, ResidencyCounts
from vstore.cache.policies.s3_fifo import S3FIFO

__all__ = [
    "ADMISSIONS",
    "EVICTIONS",
    "LRU",
    "PREFETCHES",
    "S3FIFO",
    "Adjacent",
    "Admission",
    "AdmitAll",
    "AdmitNone",
    "AdmitSecond",
    "Eviction",
    "KeepFirst",
    "NoPrefetch",
    "PinHubs",
    "Prefetch",
    "Residency",
    "ResidencyCounts",
    "policy_of",
]
