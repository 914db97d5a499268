"""What each kind of vision-language re-ranker was trained to read, word for word, and where it answers.

Sources: the publishers' scoring code of Qwen3-VL-Reranker, jina-reranker-m0 and MonoQwen2-VL. An image is one
placeholder here; the scorer widens it to the image's tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

FamilyName = Literal["qwen3_vl", "jina_m0", "qwen2_vl"]
Parts = tuple[str | None, Any]
"""(text or None, image or None) of a query or a document."""

IMAGE_PAD = "<|image_pad|>"
IMAGE = f"<|vision_start|>{IMAGE_PAD}<|vision_end|>"


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of model."""

    name: FamilyName
    model_class: str
    """Of transformers."""
    instruction: str | None
    """The default; None where the model reads none."""
    answers: tuple[str, str] | None
    """(yes, no): the score is the difference of their logits, last position; None: a head of its own."""
    build: Callable[[str, str, str], str]
    """(query, document, instruction) -> prompt; query and document have their images before their text."""
    document_first: bool
    """The document's images come before the query's."""
    max_pixels: int | None = None
    """The publisher's limit, where the checkpoint's own files do not say it."""
    tail: tuple[int, ...] = ()
    """Tokens behind the text."""


def _qwen3_vl(query: str, document: str, instruction: str) -> str:
    return (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
        'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
        f"<Instruct>: {instruction}<Query>:{query}\n<Document>:{document}<|im_end|>\n<|im_start|>assistant\n"
    )


def _jina_m0(query: str, document: str, instruction: str) -> str:
    return f"**Document**:\n{document}\n**Query**:\n{query}"


def _qwen2_vl(query: str, document: str, instruction: str) -> str:
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"{document}Assert the relevance of the previous image document to the following query, "
        f"answer True or False. The query is: {query}<|im_end|>\n<|im_start|>assistant\n"
    )


JINA_SCORE_TOKEN = 100
JINA_BIAS = 2.65
"""Subtracted from the head's number; the sigmoid of the rest is the published score."""

FAMILIES: dict[str, Family] = {
    "qwen3_vl": Family(
        "qwen3_vl",
        "Qwen3VLForConditionalGeneration",
        "Given a search query, retrieve relevant candidates that answer the query.",
        ("yes", "no"),
        _qwen3_vl,
        document_first=False,
    ),
    "jina_m0": Family(
        "jina_m0",
        "Qwen2VLForConditionalGeneration",
        None,
        None,
        _jina_m0,
        document_first=True,
        max_pixels=602_112,
        tail=(JINA_SCORE_TOKEN,),
    ),
    "qwen2_vl": Family(
        "qwen2_vl",
        "Qwen2VLForConditionalGeneration",
        None,
        ("True", "False"),
        _qwen2_vl,
        document_first=True,
    ),
}


def side(parts: Parts) -> str:
    """Return one side of a prompt: the image's placeholder, then the text; NULL where there is neither."""
    text, image = parts
    placeholder = "" if image is None else IMAGE
    return placeholder + (text if text is not None else "" if placeholder else "NULL")


def prompt_of(family: Family, query: Parts, document: Parts, instruction: str) -> tuple[str, list[Any]]:
    """Return the prompt, and the images in the order of their placeholders."""
    sides = (document, query) if family.document_first else (query, document)
    images = [image for _, image in sides if image is not None]
    return family.build(side(query), side(document), instruction), images


def family_of(config: Any) -> str | None:
    """Return the family of a checkpoint's config, or None for one that is not known."""
    names = tuple(config.architectures or ())
    if any(name.startswith("JinaVL") for name in names):
        return "jina_m0"
    return {"qwen3_vl": "qwen3_vl", "qwen2_vl": "qwen2_vl"}.get(config.model_type)
