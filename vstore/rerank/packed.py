"""BERT-like encoders on a CPU without padding, reading off the first token alone.

The tokens of several pairs lie one after another, so the matrix products never see padding, and attention
runs over runs of equal length. A batch is cut into parts, which threads take one after another and compute
alone: threads that share each matrix product wait for one another after every one. What the head does not
read is not computed, and what the formulas cancel is not either:

- The last layer is computed for the first token of each pair. Its query needs no keys and values: q (K x) is
  (q K) x, and the sum of p (V x) is V (the sum of p x), so that two products over all tokens become two over
  the heads.
- A key's bias adds the same to all of a query's scores, which softmax takes away. A value's bias comes out of
  attention as it went in, because its weights add up to 1, and is added once behind the next product.
- Products are added to what they are to be added to, in place: the residual, with the bias.
- Products of many rows are made of seven products of halves instead of eight (`products`).
- Whatever is large is written where an earlier part's was. Memory that is fresh at every step comes from the
  system page by page, zeroed: that took as long as all layer norms and half of attention.

Scores equal those of the transformers model to float32 rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np

from vstore.rerank.products import Product
from vstore.rerank.torch_parts import alone_library, compute_alone
from vstore.types import Float32s

PART_TOKENS = 2048
"""Tokens of a part, about: more would leave the processor's cache, fewer would read the weights too often."""
SUMS_BYTES = 512 * 2**20
"""Sums of weights (`products`) that a model may hold beside itself: those of larger models are not made."""
BLOCK_VALUES = 98_304
"""Values, about, of a result that torch allocates itself: a block so small is used again and again."""
TRUNKS = {"bert": "bert", "roberta": "roberta", "xlm-roberta": "roberta"}
"""The encoder's name in a classification model, by the kind of model."""


class PackedEncoder:
    """A one-label BERT, RoBERTa or XLM-RoBERTa classifier in float32. Use `supports` first.

    It holds the weights as they are when it is made; those of query, key and value are copied, and sums of
    most are kept, as large as these weights, where they take no more than SUMS_BYTES. Uses as many threads as
    `torch.get_num_threads()` says then.

    Args:
        torch: the module.
        model: a transformers model for sequence classification, on the CPU; kept.
    """

    def __init__(self, torch: Any, model: Any) -> None:
        self._torch = torch
        self._model = model
        config = model.config
        self._roberta = TRUNKS[config.model_type] == "roberta"
        trunk = getattr(model, TRUNKS[config.model_type])
        embeddings = trunk.embeddings
        self._words = embeddings.word_embeddings.weight.detach()
        self._types = embeddings.token_type_embeddings.weight.detach()
        self._embedding_norm = embeddings.LayerNorm
        self._pooler: Any = getattr(trunk, "pooler", None)
        self._width = int(config.hidden_size)
        self._n_heads = int(config.num_attention_heads)
        self._wide = int(config.intermediate_size)
        first_position = int(config.pad_token_id) + 1 if self._roberta else 0
        self._positions = embeddings.position_embeddings.weight.detach()[first_position:]
        self._block_rows = max(BLOCK_VALUES // self._width, 1)
        *layers, last = trunk.encoder.layer
        sums_bytes = len(layers) * self._width * (3 * self._width + 2 * self._wide) * 4
        self._layers = [_Layer(torch, layer, sums_bytes <= SUMS_BYTES) for layer in layers]
        self._last = _LastLayer(torch, last)
        self._kept = threading.local()
        self.n_threads = int(torch.get_num_threads())
        self._threads: ThreadPoolExecutor | None = None
        if self.n_threads > 1 and alone_library(torch) is not None:
            self._threads = ThreadPoolExecutor(self.n_threads, "packed", compute_alone, (torch,))

    @staticmethod
    def supports(model: Any) -> bool:
        """Return whether `model` is one that this class computes as transformers does."""
        config = model.config
        return (
            config.model_type in TRUNKS
            and config.hidden_act == "gelu"
            and not getattr(config, "is_decoder", False)
            and getattr(config, "position_embedding_type", None) in (None, "absolute")
            and str(model.dtype) == "torch.float32"
            and model.device.type == "cpu"
            # An adapter that is being trained takes a layer's place.
            and not any("lora" in name for name, _ in model.named_parameters())
        )

    def forward(self, pairs: Sequence[dict[str, list[int]]]) -> Float32s:
        """Return float32[n], the raw logits. Several threads may call it; they share the threads here.

        Args:
            pairs: `input_ids`, and `token_type_ids` where the tokenizer gives them, of each pair.
        """
        parts = self._parts(pairs)
        if self._threads is None or len(parts) == 1:
            return np.concatenate([self._scored(part) for part in parts])
        return np.concatenate(list(self._threads.map(self._scored, parts)))

    def _parts(self, pairs: Sequence[dict[str, list[int]]]) -> list[list[dict[str, list[int]]]]:
        """Return the pairs in parts of about as many tokens each, as many as keep every thread busy."""
        ends = np.cumsum([len(pair["input_ids"]) for pair in pairs])
        n_threads = 1 if self._threads is None else self.n_threads
        n_rounds = -(-int(ends[-1]) // (PART_TOKENS * n_threads))
        # Neighbours in length stay together, as the batch comes sorted.
        parts = (np.concatenate([[0], ends[:-1]]) * n_rounds * n_threads // ends[-1]).tolist()
        return [
            [pair for _, pair in part] for _, part in groupby(zip(parts, pairs, strict=True), itemgetter(0))
        ]

    def _scored(self, pairs: Sequence[dict[str, list[int]]]) -> Float32s:
        with self._torch.inference_mode():
            runs, row, first = [], 0, 0
            for length, same in groupby(len(pair["input_ids"]) for pair in pairs):
                n = len(list(same))
                runs.append(_Run(slice(row, row + n * length), slice(first, first + n), length))
                row, first = row + n * length, first + n
            tokens = self._embedded(pairs, runs)
            for layer in self._layers:
                self._attend(layer, tokens, runs)
                self._finish(layer, tokens)
            firsts = self._last_layer(tokens, runs).unsqueeze(1)
            pooled = firsts if self._roberta else self._pooler(firsts)
            scores: Float32s = self._model.classifier(pooled)[:, 0].numpy()
        return scores

    def _embedded(self, pairs: Sequence[dict[str, list[int]]], runs: Sequence[_Run]) -> Any:
        """Return float32[n tokens, width]: what goes into the first layer."""
        torch = self._torch
        n = sum(len(pair["input_ids"]) for pair in pairs)
        tokens, own = self._space("tokens", n, self._width), self._space("gathered", n, self._width)
        torch.index_select(self._words, 0, _flat(torch, pairs, "input_ids"), out=tokens)
        if "token_type_ids" in pairs[0]:
            tokens.add_(torch.index_select(self._types, 0, _flat(torch, pairs, "token_type_ids"), out=own))
        else:
            tokens.add_(self._types[0])
        for run in runs:
            tokens[run.tokens].view(run.n, run.length, self._width).add_(self._positions[: run.length])
        self._normalize(self._embedding_norm, tokens)
        return tokens

    def _attend(self, layer: _Layer, tokens: Any, runs: Sequence[_Run]) -> None:
        """Add to each token, in place, what its attention gathered and the layer's product made of it."""
        torch = self._torch
        projected = self._space("projected", len(tokens), 3 * self._width)
        gathered = self._space("gathered", len(tokens), self._width)
        layer.qkv.of(tokens, projected, self._space)
        for run in runs:
            some = max(self._block_rows // run.length, 1) * run.length
            for rows, into in zip(
                projected[run.tokens].split(some), gathered[run.tokens].split(some), strict=True
            ):
                parts = rows.view(-1, run.length, 3, self._n_heads, self._width // self._n_heads)
                asked, keys, values = parts.permute(2, 0, 3, 1, 4)
                found = torch.nn.functional.scaled_dot_product_attention(asked, keys, values)
                into.view(found.transpose(1, 2).shape).copy_(found.transpose(1, 2))
        tokens.add_(layer.out_bias).addmm_(gathered, layer.out)

    def _last_layer(self, tokens: Any, runs: Sequence[_Run]) -> Any:
        """Return float32[n, width]: the last hidden state of each pair's first token."""
        torch, layer = self._torch, self._last
        firsts = torch.cat([tokens[run.tokens][:: run.length] for run in runs])
        shape = (self._n_heads, -1, self._width)
        queries = torch.addmm(layer.query_bias, firsts, layer.query.T).view(len(firsts), self._n_heads, -1)
        asked = torch.einsum("nhd,hdw->nhw", queries, layer.key.view(shape)) * queries.shape[-1] ** -0.5
        found = []
        for run in runs:
            own = tokens[run.tokens].view(run.n, run.length, self._width)
            weights = torch.softmax(torch.bmm(asked[run.firsts], own.transpose(1, 2)), dim=-1)
            mixed = torch.bmm(weights, own)
            found.append(
                torch.einsum("nhw,hdw->nhd", mixed, layer.value.view(shape)).reshape(-1, self._width)
            )
        firsts.add_(layer.out_bias).addmm_(torch.cat(found), layer.out)
        self._finish(layer, firsts)
        return firsts

    def _finish(self, layer: _Finish, tokens: Any) -> None:
        """Make of the layer's input with attention added, in place, its output."""
        self._normalize(layer.attention_norm, tokens)
        wide = self._space("wide", len(tokens), self._wide)
        layer.up.of(tokens, wide, self._space)
        self._torch.ops.aten.gelu_(wide)
        layer.down.onto(wide, tokens, self._space)
        self._normalize(layer.output_norm, tokens)

    def _normalize(self, norm: Any, tokens: Any) -> None:
        for rows in tokens.split(self._block_rows):
            rows.copy_(norm(rows))

    def _space(self, name: str, n_rows: int, n_columns: int) -> Any:
        """Return float32[n_rows, n_columns] that an earlier batch may have used."""
        kept = getattr(self._kept, name, None)
        if kept is None or kept.numel() < n_rows * n_columns:
            kept = self._torch.empty(n_rows * n_columns)
            setattr(self._kept, name, kept)
        return kept[: n_rows * n_columns].view(n_rows, n_columns)


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring pairs of one length: which rows are theirs, of the tokens and of the first tokens."""

    tokens: slice
    firsts: slice
    length: int

    @property
    def n(self) -> int:
        return int(self.firsts.stop - self.firsts.start)


class _Finish:
    """The weights behind attention; the values' bias is in `out_bias`."""

    def __init__(self, torch: Any, layer: Any, halves: bool) -> None:
        attention = layer.attention
        dense = attention.output.dense
        self.out, out_bias = _linear(dense)
        self.out_bias = out_bias + dense.weight.detach() @ attention.self.value.bias.detach()
        self.attention_norm = attention.output.LayerNorm
        self.up = Product(torch, *_linear(layer.intermediate.dense), halves=halves)
        self.down = Product(torch, *_linear(layer.output.dense), halves=halves)
        self.output_norm = layer.output.LayerNorm


class _Layer(_Finish):
    """One layer's weights; those of query, key and value are copied into one matrix."""

    def __init__(self, torch: Any, layer: Any, halves: bool) -> None:
        super().__init__(torch, layer, halves)
        own = layer.attention.self
        weights = torch.cat([part.weight.detach() for part in (own.query, own.key, own.value)])
        bias = torch.zeros(len(weights))
        bias[: len(own.query.bias)] = own.query.bias.detach()
        self.qkv = Product(torch, weights.T, bias, halves=halves)


class _LastLayer(_Finish):
    """The last layer's weights, as they are."""

    def __init__(self, torch: Any, layer: Any) -> None:
        super().__init__(torch, layer, halves=False)
        parts = layer.attention.self
        self.query, self.key, self.value = (
            part.weight.detach() for part in (parts.query, parts.key, parts.value)
        )
        self.query_bias = parts.query.bias.detach()


def _linear(module: Any) -> tuple[Any, Any]:
    return module.weight.detach().T, module.bias.detach()


def _flat(torch: Any, pairs: Sequence[dict[str, list[int]]], name: str) -> Any:
    return torch.tensor([token for pair in pairs for token in pair[name]])
