"""Training from a collection: fine-tuned re-rankers, and query adapters that learn from a re-ranker.

`queries` what is known, `mining` hard negatives by the collection's own search, `settings` the dials,
`fine_tune` the loop (`batches` what a step sees, `trainable` and `views` the models' side of it, `checkpoint`
what a stop leaves behind), `query_adapter` a linear adapter on query vectors. The collection is used through
its public face alone: `search`, `get`, `schema`. docs/TRAINING.md is the guide.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vstore.rerank.train.mining import Mined, mine
from vstore.rerank.train.queries import TrainQuery
from vstore.rerank.train.settings import LoRA, TrainSettings

if TYPE_CHECKING:
    from vstore.rerank.train.loop import TrainResult, fine_tune
    from vstore.rerank.train.query_adapter import Distilled, QueryAdapter, distill
    from vstore.rerank.train.views import PhotoAugment

__all__ = [
    "Distilled",
    "LoRA",
    "Mined",
    "PhotoAugment",
    "QueryAdapter",
    "TrainQuery",
    "TrainResult",
    "TrainSettings",
    "distill",
    "fine_tune",
    "mine",
]

_LATER = {
    "Distilled": "query_adapter",
    "PhotoAugment": "views",
    "QueryAdapter": "query_adapter",
    "TrainResult": "loop",
    "distill": "query_adapter",
    "fine_tune": "loop",
}


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
