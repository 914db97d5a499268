"""BERT-like encoders on a CPU without padding, reading off the first token alone.

The tokens of all pairs of a batch lie one after another, so the matrix products never see padding, and
attention runs over runs of equal length. The last layer is computed for the first token of each pair,
which is all that the head reads. Intermediate arrays are kept from batch to batch: fresh ones of megabytes
cost a page fault for every 4 KiB. A batch is divided over threads that compute alone: threads that share
each matrix product wait for one another after every one. Scores equal those of the transformers model to
float32 rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

import numpy as np

from vstore.rerank.torch_parts import alone_library, compute_alone
from vstore.types import Float32s

CHUNK_TOKENS = 512
"""Tokens that the wide layer takes at once, so that its output is still in the processor's cache."""
TRUNKS = {"bert": "bert", "roberta": "roberta", "xlm-roberta": "roberta"}
"""The encoder's name in a classification model, by the kind of model."""


class PackedEncoder:
    """A one-label BERT, RoBERTa or XLM-RoBERTa classifier in float32. Use `supports` first.

    It holds the weights as they are when it is made; those of query, key and value are copied. Uses as many
    threads as `torch.get_num_threads()` says then.

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
        self._embeddings = trunk.embeddings
        self._pooler: Any = getattr(trunk, "pooler", None)
        self._width = int(config.hidden_size)
        self._n_heads = int(config.num_attention_heads)
        self._wide = int(config.intermediate_size)
        self._first_position = int(config.pad_token_id) + 1 if self._roberta else 0
        self._layers = [_Layer(torch, layer) for layer in trunk.encoder.layer]
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
        """Return float32[n], the raw logits.

        Args:
            pairs: `input_ids`, and `token_type_ids` where the tokenizer gives them, of each pair.
        """
        if self._threads is None or len(pairs) == 1:
            return self._scored(pairs)
        parts = np.array_split(np.arange(len(pairs)), min(self.n_threads, len(pairs)))
        # Neighbours in length stay together, as the batch comes sorted.
        found = self._threads.map(self._scored, [[pairs[i] for i in part] for part in parts])
        return np.concatenate(list(found))

    def _scored(self, pairs: Sequence[dict[str, list[int]]]) -> Float32s:
        torch = self._torch
        with torch.inference_mode():
            lengths = [len(pair["input_ids"]) for pair in pairs]
            flat = {
                name: torch.tensor([[token for pair in pairs for token in pair[name]]])
                for name in ("input_ids", "token_type_ids")
                if name in pairs[0]
            }
            positions = [self._first_position + i for length in lengths for i in range(length)]
            embedded = self._embeddings(position_ids=torch.tensor([positions]), **flat)
            first = self._encode(embedded.view(-1, self._width), lengths).unsqueeze(1)
            pooled = first if self._roberta else self._pooler(first)
            scores: Float32s = self._model.classifier(pooled)[:, 0].numpy()
        return scores

    def _encode(self, tokens: Any, lengths: Sequence[int]) -> Any:
        """Return float32[n, width]: the last hidden state of each pair's first token."""
        torch = self._torch
        runs = [(length, len(list(same))) for length, same in groupby(lengths)]
        rows, position = [], 0
        for length in lengths:
            rows.append(position)
            position += length
        firsts = torch.tensor(rows)
        projected = self._space("projected", len(tokens), 3 * self._width)
        attended = self._space("attended", len(tokens), self._width)
        for layer in self._layers[:-1]:
            torch.addmm(layer.qkv_bias, tokens, layer.qkv, out=projected)
            self._attend(projected, runs, attended)
            tokens = self._finish(layer, tokens, attended)
        layer = self._layers[-1]
        # Keys and values of all tokens, but the query of the first alone.
        width = self._width
        keys_values = projected.view(-1)[: len(tokens) * 2 * width].view(-1, 2 * width)
        torch.addmm(layer.qkv_bias[width:], tokens, layer.qkv[:, width:], out=keys_values)
        tokens = tokens[firsts]
        asked = torch.addmm(layer.qkv_bias[:width], tokens, layer.qkv[:, :width])
        attended = attended[: len(tokens)]
        self._attend_first(asked, keys_values, runs, attended)
        return self._finish(layer, tokens, attended)

    def _attend(self, projected: Any, runs: Sequence[tuple[int, int]], out: Any) -> None:
        attention = self._torch.nn.functional.scaled_dot_product_attention
        start = 0
        for length, n in runs:
            stop = start + n * length
            parts = projected[start:stop].view(n, length, 3, self._n_heads, -1).permute(2, 0, 3, 1, 4)
            found = attention(parts[0], parts[1], parts[2])
            out[start:stop].view(n, length, self._n_heads, -1).copy_(found.transpose(1, 2))
            start = stop

    def _attend_first(self, asked: Any, keys_values: Any, runs: Sequence[tuple[int, int]], out: Any) -> None:
        attention = self._torch.nn.functional.scaled_dot_product_attention
        start = row = 0
        for length, n in runs:
            stop = start + n * length
            queries = asked[row : row + n].view(n, 1, self._n_heads, -1).transpose(1, 2)
            parts = keys_values[start:stop].view(n, length, 2, self._n_heads, -1).permute(2, 0, 3, 1, 4)
            out[row : row + n].copy_(attention(queries, parts[0], parts[1]).reshape(n, -1))
            start, row = stop, row + n

    def _finish(self, layer: _Layer, tokens: Any, attended: Any) -> Any:
        """Return the layer's output; `tokens` is its input, and both are free afterwards."""
        torch = self._torch
        summed = self._space("summed", len(tokens), self._width)
        torch.addmm(layer.out_bias, attended, layer.out, out=summed)
        tokens = self._normed(layer.attention_norm, summed.add_(tokens), "between")
        for start in range(0, len(tokens), CHUNK_TOKENS):
            some = tokens[start : start + CHUNK_TOKENS]
            wide = self._space("wide", len(some), self._wide)
            torch.addmm(layer.up_bias, some, layer.up, out=wide)
            torch.ops.aten.gelu_(wide)
            torch.addmm(layer.down_bias, wide, layer.down, out=summed[start : start + CHUNK_TOKENS])
        return self._normed(layer.output_norm, summed.add_(tokens), "tokens")

    def _normed(self, norm: Any, rows: Any, name: str) -> Any:
        out = self._space(name, *rows.shape)
        mean, spread = (self._space(f"{name} {moment}", len(rows), 1) for moment in ("mean", "spread"))
        self._torch.ops.aten.native_layer_norm.out(
            rows,
            norm.normalized_shape,
            norm.weight,
            norm.bias,
            norm.eps,
            out0=out,
            out1=mean,
            out2=spread,
        )
        return out

    def _space(self, name: str, n_rows: int, n_columns: int) -> Any:
        """Return float32[n_rows, n_columns] that an earlier batch may have used."""
        kept = getattr(self._kept, name, None)
        if kept is None or kept.numel() < n_rows * n_columns:
            kept = self._torch.empty(n_rows * n_columns)
            setattr(self._kept, name, kept)
        return kept[: n_rows * n_columns].view(n_rows, n_columns)


class _Layer:
    """One layer's weights, transposed views for `addmm`."""

    def __init__(self, torch: Any, layer: Any) -> None:
        attention = layer.attention.self
        parts = (attention.query, attention.key, attention.value)
        together = torch.cat([part.weight.detach() for part in parts])
        self.qkv = together.T
        self.qkv_bias = torch.cat([part.bias.detach() for part in parts])
        self.out, self.out_bias = _linear(layer.attention.output.dense)
        self.attention_norm = layer.attention.output.LayerNorm
        self.up, self.up_bias = _linear(layer.intermediate.dense)
        self.down, self.down_bias = _linear(layer.output.dense)
        self.output_norm = layer.output.LayerNorm


def _linear(module: Any) -> tuple[Any, Any]:
    return module.weight.detach().T, module.bias.detach()
