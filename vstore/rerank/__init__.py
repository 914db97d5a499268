"""Re-rankers, and the stage that applies them to the first stage's hits. docs/RERANKING.md is the guide.

`plan` what a search asks for, `stage` what it does, `scores` its arithmetic, `documents` what models read,
`images` how image references are opened, `work` what a model reports. `engine` batches pairs across searches,
`score_cache` remembers scores, `pairs` joins both. Models: `lexical`, `cross_encoder` (`text_scorers`,
`packed`, `products`), `vision_language` (`vision_prompts`, `vision_qwen`, `vision_remote`),
`late_interaction` (`encoders`), `http`, `adapters`, `callables`, `passages`; `word_counts` is what `lexical`
knows of a collection. `fusion`, `learned` (`stored`) and `boost` combine scores; `metrics` and `evaluation`
measure. Models are imported when they are first named, and their libraries on construction. Imports
settings, types and errors.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vstore.rerank.callables import CallableReranker
from vstore.rerank.documents import candidate_of, check_query, document_text, query_parts, query_text
from vstore.rerank.stage import DEFAULT_DEPTH, Rerank, Stage, apply, as_stages, depth_of

if TYPE_CHECKING:
    from vstore.rerank.adapters import SentenceTransformersReranker, load_reranker, reranker_names
    from vstore.rerank.cross_encoder import CrossEncoderReranker
    from vstore.rerank.encoders import ColBertEncoder, ColQwen2Encoder
    from vstore.rerank.http import HTTPReranker
    from vstore.rerank.images import ImageLimits
    from vstore.rerank.late_interaction import LateInteractionReranker
    from vstore.rerank.lexical import LexicalReranker
    from vstore.rerank.passages import PassageReranker
    from vstore.rerank.vision_language import VisionLanguageReranker

__all__ = [
    "DEFAULT_DEPTH",
    "CallableReranker",
    "ColBertEncoder",
    "ColQwen2Encoder",
    "CrossEncoderReranker",
    "HTTPReranker",
    "ImageLimits",
    "LateInteractionReranker",
    "LexicalReranker",
    "PassageReranker",
    "Rerank",
    "SentenceTransformersReranker",
    "Stage",
    "VisionLanguageReranker",
    "apply",
    "as_stages",
    "candidate_of",
    "check_query",
    "depth_of",
    "document_text",
    "load_reranker",
    "query_parts",
    "query_text",
    "reranker_names",
]

# `import vstore` needs the stage and none of the models.
_LATER = {
    "SentenceTransformersReranker": "adapters",
    "load_reranker": "adapters",
    "reranker_names": "adapters",
    "CrossEncoderReranker": "cross_encoder",
    "ColBertEncoder": "encoders",
    "ColQwen2Encoder": "encoders",
    "HTTPReranker": "http",
    "ImageLimits": "images",
    "LateInteractionReranker": "late_interaction",
    "LexicalReranker": "lexical",
    "PassageReranker": "passages",
    "VisionLanguageReranker": "vision_language",
}


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
