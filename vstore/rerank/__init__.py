"""Re-rankers, and the stage that applies them to the first stage's hits. docs/RERANKING.md is the guide.

`stage` what `search(rerank=...)` does, `scores` its arithmetic, `documents` what models read;
`lexical`, `cross_encoder`, `callables` shipped re-rankers. Models are imported by the module that needs
them, on construction. Imports settings, types and errors only.
"""

from vstore.rerank.callables import CallableReranker
from vstore.rerank.cross_encoder import CrossEncoderReranker
from vstore.rerank.documents import candidate_of, check_query, document_text, query_parts, query_text
from vstore.rerank.lexical import LexicalReranker
from vstore.rerank.stage import DEFAULT_DEPTH, Rerank, Stage, apply, as_stages, depth_of
from vstore.rerank.vision_language import VisionLanguageReranker

__all__ = [
    "DEFAULT_DEPTH",
    "CallableReranker",
    "CrossEncoderReranker",
    "LexicalReranker",
    "Rerank",
    "Stage",
    "VisionLanguageReranker",
    "apply",
    "as_stages",
    "candidate_of",
    "check_query",
    "depth_of",
    "document_text",
    "query_parts",
    "query_text",
]
