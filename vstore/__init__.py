"""vstore: filtered vector search on object storage, re-scored exactly and re-ranked.

import vstore
from vstore import F

db = vstore.connect("./data")
photos = db.create_collection("photos", dim=768, metric="cosine", fields={"year": "int"})
photos.upsert(ids, vectors, [{"year": 2021}, ...])
hits = photos.search(query, k=10, filter=F.year >= 2020)
"""

import gc

# What imports make stays, and looking for garbage among it takes a tenth of their time: it is old at once.
_collecting = gc.isenabled()
gc.disable()
try:
    from vstore import aio, cached_kernels, errors
    from vstore.collection import Collection
    from vstore.database import Database, connect
    from vstore.database import open_collection as open
    from vstore.filters import F
    from vstore.rerank import Rerank
    from vstore.settings import Cancellation, IndexSettings, Prices, QueryLimits, Settings
    from vstore.types import BatchHits, Candidate, Hit, Hits, Receipt, Record, Reranker, Warmed
    from vstore.upkeep import Problem, VerifyReport
finally:
    if _collecting:
        if gc.get_freeze_count() == 0:
            gc.freeze()
            gc.unfreeze()
        gc.enable()

__version__ = "0.1.0"

cached_kernels.load_quickly()

__all__ = [
    "BatchHits",
    "Cancellation",
    "Candidate",
    "Collection",
    "Database",
    "F",
    "Hit",
    "Hits",
    "IndexSettings",
    "Prices",
    "Problem",
    "QueryLimits",
    "Receipt",
    "Record",
    "Rerank",
    "Reranker",
    "Settings",
    "VerifyReport",
    "Warmed",
    "__version__",
    "aio",
    "connect",
    "errors",
    "open",
]
