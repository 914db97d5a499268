"""The demo's embedding: TF-IDF over stemmed words, reduced by truncated SVD (latent semantic analysis).

It is fitted on the corpus itself, so it needs no model download, and saved beside the store, so that
another process embeds a question exactly as this one does. Deerwester et al. 1990; the randomized SVD
is Halko, Martinsson & Tropp 2011, as scikit-learn implements it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from vstore.errors import CorruptData, MissingDependency
from vstore.types import Float32s

MAX_WORDS = 20_000
CHARS_READ = 800
"""A docstring's beginning says what it is about; the rest is examples and references."""
WORD = re.compile(r"[a-z][a-z0-9]+")
ENDINGS = (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""))


class Embedding:
    """Text to unit vectors. Immutable; `vocabulary` has `components.shape[0]` words."""

    def __init__(self, vocabulary: Sequence[str], idf: Float32s, components: Float32s) -> None:
        """Make an embedding of its parts.

        Args:
            vocabulary: the words, each one's position being its row in `components`.
            idf: float32[words], inverse document frequencies.
            components: float32[words, dim], right singular vectors of the corpus's TF-IDF matrix.
        """
        self.vocabulary = list(vocabulary)
        self.idf = idf
        self.components = components
        self._vectorizer = new_vectorizer(vocabulary={word: row for row, word in enumerate(vocabulary)})
        self._vectorizer.idf_ = idf

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return int(self.components.shape[1])

    @classmethod
    def fit(cls, texts: Sequence[str], dim: int = 256, seed: int = 0) -> Embedding:
        """Learn the words and the components of a corpus; deterministic for a seed."""
        vectorizer = new_vectorizer(min_df=2, max_features=MAX_WORDS)
        from sklearn.utils.extmath import randomized_svd

        matrix = vectorizer.fit_transform([text[:CHARS_READ] for text in texts])
        dim = min(dim, min(matrix.shape) - 1)
        _, _, right = randomized_svd(matrix, dim, n_iter=2, random_state=seed)
        words = vectorizer.get_feature_names_out().tolist()
        return cls(
            words,
            np.asarray(vectorizer.idf_, dtype=np.float32),
            np.ascontiguousarray(right.T, dtype=np.float32),
        )

    def embed(self, texts: Sequence[str]) -> Float32s:
        """Return float32[n, dim] of norm 1.

        A text without a single known word gets the first axis instead of a zero vector, which has no
        direction and which cosine therefore refuses.
        """
        sparse = self._vectorizer.transform([text[:CHARS_READ] for text in texts])
        vectors: Float32s = np.ascontiguousarray(sparse @ self.components, dtype=np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        empty = norms[:, 0] < 1e-6
        vectors[empty] = np.eye(1, self.dim, dtype=np.float32)
        norms[empty] = 1.0
        vectors /= norms
        return vectors

    def save(self, path: Path) -> None:
        """Write the embedding as an .npz archive of plain arrays, without pickle."""
        partial = path.with_suffix(".partial.npz")
        words = np.array(self.vocabulary, dtype=np.str_)
        np.savez(partial, vocabulary=words, idf=self.idf, components=self.components)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Embedding:
        """Read what `save` wrote.

        Raises:
            CorruptData: the file is missing or is not such an archive.
        """
        try:
            archive = np.load(path, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            with archive:
                words = archive["vocabulary"].tolist()
                idf, components = archive["idf"], archive["components"]
        except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
            raise CorruptData(
                f"{path} holds no embedding ({error}); run `vstore demo` once to write it"
            ) from error
        if components.ndim != 2 or not len(words) == len(idf) == len(components):
            raise CorruptData(
                f"{path}: vocabulary, idf and components have {len(words)}, {len(idf)} and {len(components)} "
                "rows; they must agree; run `vstore demo` once to write it anew"
            )
        return cls(
            words, idf.astype(np.float32, copy=False), np.ascontiguousarray(components, dtype=np.float32)
        )


def new_vectorizer(**options: Any) -> Any:
    """Return scikit-learn's TfidfVectorizer over `words_of`."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise MissingDependency(
            "the demo embeds text with scikit-learn, which is not installed; run: pip install 'vstore[demo]'"
        ) from error
    return TfidfVectorizer(analyzer=words_of, sublinear_tf=True, dtype=np.float32, **options)


def words_of(text: str) -> list[str]:
    """Return the stems of a text's words: camelCase and snake_case come apart, English stop words go."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    apart = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", text).replace("_", " ").lower()
    return [stem(word) for word in WORD.findall(apart) if word not in ENGLISH_STOP_WORDS]


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """Return a word without its commonest English endings: members -> member, compressed -> compress."""
    if not word.endswith("ss"):
        for ending, instead in ENDINGS:
            if word.endswith(ending) and len(word) - len(ending) >= 3:
                word = word[: -len(ending)] + instead
                break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word
