"""How text pairs become tokens and tokens a score: one label, or yes-or-no of a causal model."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vstore.rerank.lora import base_of, open_weights
from vstore.rerank.packed import PackedEncoder
from vstore.rerank.pairs import encodable
from vstore.rerank.torch_parts import named_error
from vstore.settings import require
from vstore.types import Float32s

DEFAULT_MAX_LENGTH = 512
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl")
"""Models whose first position comes after the padding's, so that fewer tokens fit than positions."""


class TextScorer(Protocol):
    """A model over text pairs: `encode` in the caller's thread, `forward` on the worker."""

    max_length: int
    model: Any
    tokenizer: Any
    pads: bool
    """Whether a batch costs as much as if all its pairs were as long as the longest."""

    def encode(self, query: str, documents: Sequence[str]) -> list[dict[str, list[int]]]:
        """Return the inputs of each pair, `input_ids` among them."""

    def forward(self, pairs: list[dict[str, list[int]]]) -> Float32s:
        """Return float32[n], raw log-odds or logits."""

    def logits(self, pairs: list[dict[str, list[int]]]) -> Any:
        """Return the same as a float32 tensor, with gradients where they are on."""


class ClassificationScorer:
    """A checkpoint of one label, as BERT cross-encoders are: query and document as a pair encoding.

    On a CPU in float32 the usual architectures run without padding (`packed`).

    Raises:
        InvalidSetting: it has other than one label, lacks weights or its tokenizer, or cannot be opened.
        MissingDependency: it needs a package that is not installed.
    """

    def __init__(
        self, path: str, torch: Any, transformers: Any, *, device: Any, dtype: str, max_length: int | None
    ) -> None:
        self._torch = torch
        try:
            config = transformers.AutoConfig.from_pretrained(base_of(path))
            require(
                config.num_labels == 1,
                f"{path!r} has {config.num_labels} labels; a re-ranker has one (num_labels=1), "
                "whose logit is the relevance",
            )
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(path)
            _check_tokenizer(path, self.tokenizer, config)
            model = open_weights(
                path, transformers.AutoModelForSequenceClassification, dtype=getattr(torch, dtype)
            )
        except Exception as error:  # Whatever the libraries under transformers raise over bad files.
            raise named_error(path, "a cross-encoder", error) from error
        self.model = model.eval().to(device)
        self._device = device
        self._packed: PackedEncoder | None = None
        self._packing = threading.Lock()
        self._packed_weights: list[tuple[int, int]] = []
        self.pads = not PackedEncoder.supports(self.model)
        self.max_length = _max_length(max_length, self.tokenizer, config)
        self._left = self.tokenizer.padding_side == "left"
        # A fast tokenizer keeps truncation as state and refuses to be used by two threads at once.
        self._tokenizing = threading.Lock()

    def encode(self, query: str, documents: Sequence[str]) -> list[dict[str, list[int]]]:
        """Return the inputs of each pair; the longer of query and document is cut to fit."""
        with self._tokenizing:
            encoded = self.tokenizer(
                [encodable(query)] * len(documents),
                [encodable(document) for document in documents],
                truncation="longest_first",
                max_length=self.max_length,
                return_attention_mask=False,
            )
        names = list(encoded)
        return [
            dict(zip(names, values, strict=True))
            for values in zip(*(encoded[name] for name in names), strict=True)
        ]

    def forward(self, pairs: list[dict[str, list[int]]]) -> Float32s:
        """Return float32[n], raw logits."""
        packed = self._without_padding()
        if packed is not None:
            return packed.forward(pairs)
        with self._torch.inference_mode():
            scores: Float32s = self.logits(pairs).cpu().numpy()
        return scores

    def _without_padding(self) -> PackedEncoder | None:
        """Return the model without padding, made anew where training has changed the weights since."""
        with self._packing:
            weights = [(id(weight), weight._version) for weight in self.model.parameters()]
            if weights != self._packed_weights:
                supported = PackedEncoder.supports(self.model)
                self._packed = PackedEncoder(self._torch, self.model) if supported else None
                self._packed_weights = weights
            return self._packed

    def logits(self, pairs: list[dict[str, list[int]]]) -> Any:
        """Return a float32 tensor [n] of raw logits, with gradients where they are on."""
        if self._torch.is_grad_enabled():
            # Adapters are merged past the weights' own counters of changes.
            self._packed_weights = []
        fills = dict.fromkeys(pairs[0], 0) | {"input_ids": self.tokenizer.pad_token_id}
        inputs, mask = padded(pairs, fills, left=self._left)
        torch = self._torch
        tensors = {name: torch.from_numpy(array).to(self._device) for name, array in inputs.items()}
        tensors["attention_mask"] = torch.from_numpy(mask).to(self._device)
        return self.model(**tensors).logits[:, 0].float()


@dataclass(frozen=True, slots=True)
class Template:
    """A causal re-ranker's prompt, as published, and the tokens between which it decides."""

    prefix: tuple[str, ...]
    """Pieces are tokenized apart, as the publisher did: a sign and a newline would else become one token."""
    suffix: tuple[str, ...]
    instruction: str | None
    """The one that the model was published with."""
    yes: str
    no: str
    with_instruction: tuple[str, ...]
    without_instruction: tuple[str, ...]

    def body(self, query: str, document: str, instruction: str | None) -> list[str]:
        """Return the pieces between prefix and suffix."""
        chosen = instruction if instruction is not None else self.instruction
        pieces = self.without_instruction if chosen is None else self.with_instruction
        return [piece.format(instruction=chosen, query=query, document=document) for piece in pieces]


TEMPLATES = {
    # mixedbread-ai/mxbai-rerank-v2 (Qwen2): "1" or "0".
    "qwen2": Template(
        prefix=(
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
            "<|im_end|>\n<|im_start|>user\n",
        ),
        suffix=(
            "\n",
            "You are a search relevance expert who evaluates how well documents match search queries. For "
            "each query-document pair, carefully analyze the semantic relationship between them, then "
            "provide your binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:",
            "<|im_end|>\n<|im_start|>assistant\n",
        ),
        instruction=None,
        yes="1",
        no="0",
        with_instruction=("instruction: {instruction}\nquery: {query}", "\n", "document: {document}"),
        without_instruction=("query: {query}", "\n", "document: {document}"),
    ),
    # Qwen/Qwen3-Reranker: "yes" or "no".
    "qwen3": Template(
        prefix=(
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
            'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
            "<|im_start|>user\n",
        ),
        suffix=("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",),
        instruction="Given a web search query, retrieve relevant passages that answer the query",
        yes="yes",
        no="no",
        with_instruction=("<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",),
        without_instruction=("<Query>: {query}\n<Document>: {document}",),
    ),
}


class CausalScorer:
    """A causal language model that answers one of two words: the score is the difference of their logits.

    The trunk's last hidden state is multiplied with one direction, (head of yes - head of no), and never
    with the whole vocabulary.

    Raises:
        InvalidSetting: no template is known for its kind, or it cannot be opened.
    """

    def __init__(
        self,
        path: str,
        torch: Any,
        transformers: Any,
        *,
        device: Any,
        dtype: str,
        max_length: int | None,
        instruction: str | None,
    ) -> None:
        self._torch = torch
        self.pads = True
        try:
            config = transformers.AutoConfig.from_pretrained(base_of(path))
            require(
                config.model_type in TEMPLATES,
                f"{path!r} is a causal model of kind {config.model_type!r}; prompts are known for "
                f"{', '.join(TEMPLATES)} (mxbai-rerank-v2, Qwen3-Reranker)",
            )
            self._template = TEMPLATES[config.model_type]
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(path)
            _check_tokenizer(path, self.tokenizer, config)
            model = open_weights(path, transformers.AutoModelForCausalLM, dtype=getattr(torch, dtype))
            self._answers = tuple(
                _only_token(self.tokenizer, word) for word in (self._template.yes, self._template.no)
            )
        except Exception as error:
            raise named_error(path, "a causal re-ranker", error) from error
        self._device = device
        self.model = model.eval().to(device)
        self._trunk = self.model.base_model
        self._instruction = instruction
        self._tokenizing = threading.Lock()
        prefix, suffix = (self._tokens(pieces) for pieces in (self._template.prefix, self._template.suffix))
        self._prefix, self._suffix = prefix, suffix
        self.max_length = _max_length(max_length, self.tokenizer, config, len(prefix) + len(suffix) + 16)

    def encode(self, query: str, documents: Sequence[str]) -> list[dict[str, list[int]]]:
        """Return the inputs of each pair; the document is cut to fit, and the query to half of the room."""
        room = self.max_length - len(self._prefix) - len(self._suffix)
        query = encodable(query)
        tokens = self._tokens([query])
        if len(tokens) > room // 2:
            query = self.tokenizer.decode(tokens[: room // 2])
        found = []
        for document in documents:
            body = self._tokens(self._template.body(query, encodable(document), self._instruction))
            found.append({"input_ids": [*self._prefix, *body[:room], *self._suffix]})
        return found

    def forward(self, pairs: list[dict[str, list[int]]]) -> Float32s:
        """Return float32[n], raw log-odds."""
        with self._torch.inference_mode():
            scores: Float32s = self.logits(pairs).cpu().numpy()
        return scores

    def logits(self, pairs: list[dict[str, list[int]]]) -> Any:
        """Return a float32 tensor [n] of raw log-odds, with gradients where they are on."""
        torch = self._torch
        inputs, mask = padded(pairs, {"input_ids": self.tokenizer.pad_token_id}, left=True)
        hidden = self._trunk(
            input_ids=torch.from_numpy(inputs["input_ids"]).to(self._device),
            attention_mask=torch.from_numpy(mask).to(self._device),
            # Left padding must not shift the positions.
            position_ids=torch.from_numpy((mask.cumsum(axis=1) - 1).clip(min=0)).to(self._device),
            use_cache=False,
        ).last_hidden_state[:, -1]
        head = self.model.get_output_embeddings().weight
        yes, no = self._answers
        return hidden.float() @ (head[yes].float() - head[no].float())

    def _tokens(self, pieces: Sequence[str]) -> list[int]:
        with self._tokenizing:
            found = self.tokenizer(list(pieces), add_special_tokens=False)["input_ids"]
        return [token for piece in found for token in piece]


def padded(
    pairs: Sequence[dict[str, list[int]]], fills: dict[str, int], *, left: bool
) -> tuple[dict[str, Any], Any]:
    """Return int64[n, longest] arrays of each input, and of the mask: 1 where there is a token."""
    lengths = [len(pair["input_ids"]) for pair in pairs]
    shape = (len(pairs), max(lengths))
    arrays = {name: np.full(shape, fill, dtype=np.int64) for name, fill in fills.items()}
    mask = np.zeros(shape, dtype=np.int64)
    for row, (pair, length) in enumerate(zip(pairs, lengths, strict=True)):
        place = slice(shape[1] - length, None) if left else slice(0, length)
        mask[row, place] = 1
        for name, array in arrays.items():
            array[row, place] = pair[name]
    return arrays, mask


def _only_token(tokenizer: Any, word: str) -> int:
    found = tokenizer(word, add_special_tokens=False)["input_ids"]
    require(len(found) == 1, f"the tokenizer writes the answer {word!r} as {len(found)} tokens, expected 1")
    return int(found[0])


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


def _max_length(asked: int | None, tokenizer: Any, config: Any, least: int = 8) -> int:
    positions = getattr(config, "max_position_embeddings", None)
    limit = int(tokenizer.model_max_length)
    if isinstance(positions, int) and positions > 0:
        if config.model_type in _OFFSET_POSITIONS:
            positions -= config.pad_token_id + 1
        limit = min(limit, positions)
    if asked is None:
        return min(limit, max(DEFAULT_MAX_LENGTH, least))
    require(
        isinstance(asked, int) and not isinstance(asked, bool) and least <= asked <= limit,
        f"max_length is {asked!r}; this model takes from {least} to {limit} tokens",
    )
    return asked
