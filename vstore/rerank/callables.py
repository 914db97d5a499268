"""Whatever a caller passes as a model, as a Reranker."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy.typing as npt

from vstore.errors import InvalidSetting
from vstore.types import Candidate, Reranker

ScoreFunction = Callable[[Any, Sequence[Candidate]], npt.ArrayLike]
FUSION: Final = "fusion:"
"""What a model's name begins with that is a fusion stored with the collection (`stored`)."""
_SIGNATURE = "(query, documents) -> one score a document"


class CallableReranker:
    """A function `(query, documents) -> scores` as a Reranker.

    Args:
        function: called with the query document as it was given and a sequence of `Candidate`.
        name: what reports call it; the function's own name by default.

    Raises:
        InvalidSetting: not a function of two arguments, or an asynchronous one.
    """

    def __init__(self, function: ScoreFunction, name: str | None = None) -> None:
        if not callable(function):
            raise InvalidSetting(
                f"function is a {type(function).__name__}; it must be a callable {_SIGNATURE}"
            )
        if inspect.iscoroutinefunction(function):
            raise InvalidSetting(
                f"{_function_name(function)} is async; re-rankers are called in the search's thread"
            )
        _check_takes_two(function)
        self._function = function
        self.name = name or _function_name(function)

    def score(self, query: Any, documents: Sequence[Candidate]) -> npt.ArrayLike:
        """Return what the function returns."""
        return self._function(query, documents)

    def __repr__(self) -> str:
        return f"CallableReranker({self.name})"


def as_reranker(model: Any) -> Reranker:
    """Return an object with `.score` as it is, wrap a callable, and load a registered name.

    Raises:
        InvalidSetting: it is none of these, or a class instead of an instance.
    """
    if isinstance(model, str):
        # Imported here: these modules know every shipped model, and the models know this one.
        if model.startswith(FUSION):
            from vstore.rerank.stored import StoredFusion

            return StoredFusion(model.removeprefix(FUSION))
        from vstore.rerank.adapters import load_reranker

        return load_reranker(model)
    if isinstance(model, type):
        raise InvalidSetting(f"rerank got the class {model.__name__}; make one: {model.__name__}(...)")
    score = getattr(model, "score", None)
    if callable(score):
        if inspect.iscoroutinefunction(score):
            raise InvalidSetting(
                f"{name_of(model)}.score is async; re-rankers are called in the search's thread"
            )
        _check_takes_two(score)
        reranker: Reranker = model
        return reranker
    if callable(model):
        return CallableReranker(model)
    raise InvalidSetting(
        f"rerank got {model!r:.60}, a {type(model).__name__}; give an object with .score(query, documents), "
        f"a callable {_SIGNATURE}, a Rerank(...), or a list of them"
    )


def name_of(reranker: Any) -> str:
    """Return what reports and errors call a re-ranker: its `name`, or its class's."""
    name = getattr(reranker, "name", None)
    return name if isinstance(name, str) and name else type(reranker).__name__


def _function_name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _check_takes_two(function: Any) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # Compiled callables may have no signature to read.
    try:
        signature.bind(None, ())
    except TypeError as error:
        raise InvalidSetting(
            f"{_function_name(function)}{signature} cannot be called with (query, documents): {error}; "
            f"it must be {_SIGNATURE}"
        ) from None
