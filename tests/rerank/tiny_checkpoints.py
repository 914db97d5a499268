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
