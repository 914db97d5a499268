"""Checkpoints of the real classes, a few kilobytes each, made without a download."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from vstore.testing.reranker_suite import WORDS

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def save_bert(
    folder: Path, *, num_labels: int = 1, headless: bool = False, seed: int = 0, **config: Any
) -> Path:
    """Write a random two-layer BERT with a WordPiece tokenizer, as `save_pretrained` lays it out."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    letters = list(string.ascii_lowercase + string.digits + string.punctuation)
    vocabulary = [*SPECIALS, *letters, *(f"##{letter}" for letter in letters), *sorted(set(WORDS))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=128)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    settings = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        num_labels=num_labels,
        # Wide enough for scores to differ visibly.
        initializer_range=0.4,
        **config,
    )
    model = BertModel(settings) if headless else BertForSequenceClassification(settings)
    model.save_pretrained(folder)
    return folder


def save_colbert(folder: Path, seed: int = 0) -> Path:
    """Write a random BERT with a linear layer of 8 dimensions beside it, as colbertv2.0 is laid out."""
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    save_bert(folder, headless=True, seed=seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # The published vocabulary has these among its words; here they take places of words.
    vocabulary = (folder / "vocab.txt").read_text().splitlines()
    vocabulary[-2:] = ["[unused0]", "[unused1]"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    type(tokenizer)(vocab=str(folder / "vocab.txt"), model_max_length=128).save_pretrained(folder)
    file = folder / "model.safetensors"
    random = torch.Generator().manual_seed(seed)
    weights = {**load_file(file), "linear.weight": torch.randn(8, 32, generator=random)}
    save_file(weights, file, metadata={"format": "pt"})
    return folder


def save_causal(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write a random causal model of two layers, "qwen2" (mxbai-rerank-v2) or "qwen3" (Qwen3-Reranker)."""
    import torch
    from tiny_vision import byte_tokenizer, spread
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    tokenizer = byte_tokenizer()
    settings: dict[str, Any] = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }
    torch.manual_seed(seed)
    made: Any = Qwen2ForCausalLM(Qwen2Config(**settings)) if kind == "qwen2" else None
    if made is None:
        made = Qwen3ForCausalLM(Qwen3Config(**settings, head_dim=12))
    spread(made).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
