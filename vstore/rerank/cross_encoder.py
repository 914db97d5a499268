"""Text cross-encoders through transformers. torch and transformers are imported on construction."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vstore.errors import InvalidSetting, MissingDependency
from vstore.rerank.documents import document_text, query_text
from vstore.settings import require
from vstore.types import Candidate, Float32s

DType = Literal["float32", "bfloat16", "float16"]
_DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")
_DEFAULT_MAX_LENGTH = 512
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl")
"""Models whose first position comes after the padding's, so that fewer tokens fit than positions."""


class CrossEncoderReranker:
    """A sequence-classification checkpoint of one label that reads query and document together.

    The score is the raw logit: larger is better, any finite number. Each batch holds pairs of like
    length, so that little of it is padding; in float32 the scores do not depend on the batches beyond
    rounding. Safe to call from several threads.

    Args:
        name_or_path: a folder written by `save_pretrained` (read without network), or a hub name.
        max_length: tokens of a pair, its special tokens included; the longer of query and document
            is cut to fit. Default: what the model takes, at most 512.
        batch_tokens: tokens of a batch, padding included; a dial for memory.
        batch_size: pairs of a batch at most.
        device: "cpu", "cuda", "cuda:1", "mps"; by default a GPU where torch sees one.
        dtype: "float32", "bfloat16" or "float16"; the last two are for GPUs and cost precision.
        fields: attributes of type str or list[str] that are put before the document's text.

    Raises:
        MissingDependency: torch or transformers cannot be imported.
        InvalidSetting: a value outside its limits, or a checkpoint that is no re-ranker of one label.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        max_length: int | None = None,
        batch_tokens: int = 8192,
        batch_size: int = 64,
        device: str | None = None,
        dtype: DType = "float32",
        fields: Sequence[str] = (),
    ) -> None:
        require(
            isinstance(batch_tokens, int) and batch_tokens >= 1,
            f"batch_tokens is {batch_tokens!r}; it must be a whole number of 1 or more, as 8192",
        )
        require(
            isinstance(batch_size, int) and batch_size >= 1,
            f"batch_size is {batch_size!r}; it must be a whole number of 1 or more",
        )
        require(dtype in _DTYPES, f"dtype is {dtype!r}; it must be one of {', '.join(_DTYPES)}")
        if isinstance(fields, str) or not all(isinstance(name, str) for name in fields):
            raise InvalidSetting(f"fields is {fields!r}; it must be a list of attribute names, as ['title']")
        self._torch, transformers = _import_torch_and_transformers()
        self.path = str(name_or_path)
        self.name = f"cross-encoder {Path(self.path).name}"
        self.fields = tuple(fields)
        self.batch_tokens = batch_tokens
        self.batch_size = batch_size
        self.device = _device(self._torch, device)
        self._tokenizer, model = _load(self.path, transformers, getattr(self._torch, dtype))
        self._model = model.eval().to(self.device)
        self.max_length = _max_length(max_length, self._tokenizer, model.config)
        # A fast tokenizer keeps truncation as state and refuses to be used by two threads at once.
        self._tokenizing = threading.Lock()

    def __repr__(self) -> str:
        return (
            f"CrossEncoderReranker({self.path!r}, max_length={self.max_length}, device={str(self.device)!r})"
        )

    def score(self, query: Any, documents: Sequence[Candidate]) -> Float32s:
        """Return float32[n], raw logits; NaN for a document that has no text.

        Args:
            query: a text, or a dict with one.
            documents: n candidates.

        Raises:
            InvalidInput: the query has no text.
        """
        text = query_text(query, "CrossEncoderReranker")
        texts = [document_text(document, self.fields) for document in documents]
        scores = np.full(len(texts), np.nan, dtype=np.float32)
        readable = [i for i, document in enumerate(texts) if document is not None]
        scores[readable] = self.score_pairs([(text, texts[i] or "") for i in readable])
        return scores

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> Float32s:
        """Return float32[n], the raw logit of each (query, document) pair; queries may differ."""
        scores = np.empty(len(pairs), dtype=np.float32)
        if not pairs:
            return scores
        encoded = self._encode(pairs)
        with self._torch.inference_mode():
            for rows in self._batches([len(ids) for ids in encoded["input_ids"]]):
                batch = self._tokenizer.pad(
                    {name: [values[i] for i in rows] for name, values in encoded.items()}, return_tensors="pt"
                )
                logits = self._model(**batch.to(self.device)).logits
                scores[rows] = logits[:, 0].float().cpu().numpy()
        return scores

    def _encode(self, pairs: Sequence[tuple[str, str]]) -> dict[str, list[list[int]]]:
        with self._tokenizing:
            encoded = self._tokenizer(
                [_encodable(query) for query, _ in pairs],
                [_encodable(document) for _, document in pairs],
                truncation="longest_first",
                max_length=self.max_length,
            )
        return dict(encoded)

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        # Longest first: the first batch needs the most memory, so that a lack of it shows at once.
        rows: list[int] = []
        longest = 0
        for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            if rows and (len(rows) == self.batch_size or (len(rows) + 1) * longest > self.batch_tokens):
                yield rows
                rows = []
            if not rows:
                longest = lengths[row]
            rows.append(row)
        yield rows


def _encodable(text: str) -> str:
    # The tokenizer takes UTF-8 only, and a Python str may hold half of a surrogate pair.
    return text.encode("utf-8", "replace").decode("utf-8")


def _import_torch_and_transformers() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingDependency(
            f"CrossEncoderReranker needs torch and transformers ({error}); run: pip install 'vstore[rerank]'"
        ) from error
    return torch, transformers


def _device(torch: Any, device: str | None) -> Any:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise InvalidSetting(
            f"device is {device!r} and torch cannot use it ({first_line}); try 'cpu'"
        ) from error
    return found


def _load(path: str, transformers: Any, dtype: Any) -> tuple[Any, Any]:
    try:
        config = transformers.AutoConfig.from_pretrained(path)
        require(
            config.num_labels == 1,
            f"{path!r} has {config.num_labels} labels; a re-ranker has one (num_labels=1), "
            "whose logit is the relevance",
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        _check_tokenizer(path, tokenizer, config)
        model, found = transformers.AutoModelForSequenceClassification.from_pretrained(
            path, dtype=dtype, output_loading_info=True
        )
    except InvalidSetting:
        raise
    except ImportError as error:
        raise MissingDependency(f"{path!r} needs a package that is not installed: {error}") from error
    except Exception as error:  # Whatever the libraries under transformers raise over bad files.
        raise InvalidSetting(
            f"{path!r} cannot be opened as a cross-encoder ({type(error).__name__}: {error}); "
            "give a folder written by save_pretrained with its tokenizer, or the name of one on the hub"
        ) from error
    missing = sorted(found["missing_keys"])
    require(
        not missing,
        f"{path!r} lacks {len(missing)} weights ({', '.join(missing[:4])}), which would be random: "
        "it is no re-ranker, or is incomplete",
    )
    # Padding is apart from tokenizing because batches are formed by length between them.
    tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
    return tokenizer, model


def _check_tokenizer(path: str, tokenizer: Any, config: Any) -> None:
    require(
        tokenizer.pad_token is not None,
        f"the tokenizer of {path!r} has no padding token, so that pairs cannot share a batch; "
        "set tokenizer.pad_token and the model's config.pad_token_id, and save both",
    )
    require(
        len(tokenizer) <= config.vocab_size,
        f"the tokenizer of {path!r} has {len(tokenizer)} tokens and the model {config.vocab_size}; "
        "they are of different models",
    )
    # From a folder without its files transformers makes a tokenizer that knows nothing, and says nothing.
    known = set(tokenizer("open an archive", add_special_tokens=False)["input_ids"]) - {
        tokenizer.unk_token_id
    }
    require(
        bool(known),
        f"the tokenizer of {path!r} knows no words: its files are missing; "
        "save it beside the model with tokenizer.save_pretrained",
    )


def _max_length(asked: int | None, tokenizer: Any, config: Any) -> int:
    positions = getattr(config, "max_position_embeddings", None)
    limit = int(tokenizer.model_max_length)
    if isinstance(positions, int) and positions > 0:
        if config.model_type in _OFFSET_POSITIONS:
            positions -= config.pad_token_id + 1
        limit = min(limit, positions)
    if asked is None:
        return min(limit, _DEFAULT_MAX_LENGTH)
    require(
        isinstance(asked, int) and not isinstance(asked, bool) and 8 <= asked <= limit,
        f"max_length is {asked!r}; this model takes from 8 to {limit} tokens",
    )
    return asked
