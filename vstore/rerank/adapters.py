"""Re-rankers of other libraries, and those that packages register by name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vstore.errors import InvalidSetting, MissingDependency, nearest
from vstore.rerank import work as recorder
from vstore.rerank.documents import document_text, query_parts
from vstore.rerank.images import ImageLimits, ImageReader
from vstore.rerank.pairs import check_fields, encodable
from vstore.types import Candidate, Float32s, Reranker

ENTRY_POINTS = "vstore.rerankers"
"""The group in which a package registers a re-ranker: name -> a class or function that returns one."""


class SentenceTransformersReranker:
    """Whatever sentence-transformers' `CrossEncoder` opens. Scores are raw: its activation is left out.

    Images are handed over where the model says that it reads them.

    Args:
        model: a folder or hub name, or a `CrossEncoder`.
        batch_size: pairs of a batch.
        fields: attributes that are put before the document's text.
        images: what image references may be.
        options: of `CrossEncoder`, where a name was given.

    Raises:
        MissingDependency: sentence-transformers cannot be imported.
        InvalidSetting: it cannot open the model, or the model has more than one label.
    """

    def __init__(
        self,
        model: Any,
        *,
        batch_size: int = 32,
        fields: Sequence[str] = (),
        images: ImageLimits | None = None,
        **options: Any,
    ) -> None:
        self.fields = check_fields(fields)
        try:
            import torch
            from sentence_transformers import CrossEncoder
        except ImportError as error:
            raise MissingDependency(
                f"SentenceTransformersReranker needs sentence-transformers ({error}); "
                "run: pip install sentence-transformers"
            ) from error
        if isinstance(model, (str, Path)):
            try:
                model = CrossEncoder(str(model), **options)
            except Exception as error:  # Whatever the libraries under it raise over bad files.
                raise InvalidSetting(
                    f"sentence-transformers cannot open {model!r} ({type(error).__name__}: {error})"
                ) from error
        if getattr(model, "num_labels", 1) != 1:
            raise InvalidSetting(f"the model has {model.num_labels} labels; a re-ranker has one")
        self._model = model
        self._identity = torch.nn.Identity()
        self._batch_size = batch_size
        # Its predict() keeps the tokenizer's truncation as state.
        self._predicting = threading.Lock()
        self._reads_images = "image" in (getattr(model, "modalities", None) or ())
        self._reader = ImageReader(images) if self._reads_images else None
        self.name = f"sentence-transformers {type(model).__name__}"

    def score(self, query: Any, documents: Sequence[Candidate]) -> Float32s:
        """Return float32[n], raw scores; NaN for a document that the model cannot read.

        Raises:
            InvalidInput: the query has nothing that the model reads.
        """
        work = recorder.current()
        asked = self._side(*query_parts(query))
        scores = np.full(len(documents), np.nan, dtype=np.float32)
        rows, pairs = [], []
        for row, document in enumerate(documents):
            try:
                side = self._side(document_text(document, self.fields), document.image)
            except ValueError as error:
                work.failures[row] = str(error)
                continue
            rows.append(row)
            pairs.append((asked, side))
        if pairs:
            with self._predicting:
                scores[rows] = self._model.predict(
                    pairs,
                    batch_size=self._batch_size,
                    activation_fn=self._identity,
                    show_progress_bar=False,
                    convert_to_numpy=True,
                )
            work.n_pairs += len(pairs)
        return scores

    def _side(self, text: str | None, image: Any) -> Any:
        if self._reader is None or image is None:
            if text is None:
                raise InvalidSetting("has no text, and this model reads nothing else")
            return encodable(text)
        decoded = self._reader.decode(image)
        return decoded if text is None else {"image": decoded, "text": encodable(text)}


def _shipped(name: str) -> Callable[..., Reranker]:
    def make(*arguments: Any, **settings: Any) -> Reranker:
        import vstore.rerank as rerank

        reranker: Reranker = getattr(rerank, name)(*arguments, **settings)
        return reranker

    return make


def _passages(model: str, *arguments: Any, **settings: Any) -> Reranker:
    """Return a `PassageReranker` over the cross-encoder in a folder or of a hub name."""
    import vstore.rerank as rerank

    made: Reranker = rerank.PassageReranker(rerank.CrossEncoderReranker(model), *arguments, **settings)
    return made


SHIPPED: dict[str, Callable[..., Reranker]] = {
    "lexical": _shipped("LexicalReranker"),
    "cross-encoder": _shipped("CrossEncoderReranker"),
    "passages": _passages,
    "vision-language": _shipped("VisionLanguageReranker"),
    "late-interaction": _shipped("LateInteractionReranker"),
    "http": _shipped("HTTPReranker"),
    "sentence-transformers": _shipped("SentenceTransformersReranker"),
}


def _registered() -> list[Any]:
    # Slow to import, and needed by few.
    from importlib.metadata import entry_points

    return list(entry_points(group=ENTRY_POINTS))


def reranker_names() -> list[str]:
    """Return the names that `load_reranker` knows: the shipped ones and those of installed packages."""
    return sorted({*SHIPPED, *(each.name for each in _registered())})


def load_reranker(name: str, *arguments: Any, **settings: Any) -> Reranker:
    """Return the re-ranker that a name stands for, made with these arguments.

    Packages register one in their entry points, group "vstore.rerankers"; shipped names win.

    Raises:
        InvalidSetting: no re-ranker has the name, its package cannot be loaded, or it gave no re-ranker.
    """
    make = SHIPPED.get(name)
    if make is None:
        found = [each for each in _registered() if each.name == name]
        if not found:
            raise InvalidSetting(
                f"no re-ranker is called {name!r}{nearest(name, reranker_names())}; known: "
                f"{', '.join(reranker_names())}"
            )
        try:
            make = found[0].load()
        except Exception as error:
            raise InvalidSetting(
                f"re-ranker {name!r} of {found[0].value} cannot be loaded: {error}"
            ) from error
    try:
        reranker = make(*arguments, **settings)
    except TypeError as error:
        raise InvalidSetting(
            f"re-ranker {name!r} cannot be made with these arguments ({error}): "
            "make it and pass the object, as CrossEncoderReranker(folder)"
        ) from error
    if not callable(getattr(reranker, "score", None)):
        raise InvalidSetting(
            f"re-ranker {name!r} gave a {type(reranker).__name__}, which has no score(query, documents)"
        )
    return reranker
