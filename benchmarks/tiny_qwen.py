"""A Qwen3-VL checkpoint of 1.5 million random weights, laid out as the published re-ranker's.

The real class with small numbers: 60 x 60 pixels are 144 patches and 9 tokens. Its tokenizer writes each
fixed sentence of the published prompt, and each word of `texts`, as one token: a pair is two dozen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vstore.rerank.vision_prompts import FAMILIES, IMAGE

PIXELS = 60
PATCH = 5
MERGE = 4
"""Patches a side of a token: small patches see colours apart, few tokens keep the pairs short."""
HIDDEN = 64
VISION_HIDDEN = 48
SPREAD = 4.0
"""Random weights are scaled up: at the stock 0.02 so small a model scores all alike and starts slowly."""
SPECIALS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip


def tokenizer_of(texts: Sequence[str]) -> Any:
    """Return a byte-level BPE: any text encodes."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import Qwen2Tokenizer

    raw = Tokenizer(BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    words = sorted({word for text in texts for word in text.split()} | {"yes", "no"})
    lines = [before + word for word in words for before in ("", " ") for _ in range(20)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        lines, BpeTrainer(vocab_size=2000, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(raw.to_str())["model"]
    family = FAMILIES["qwen3_vl"]
    # The prompt around query and image, which never changes.
    prompt = family.build("\0", IMAGE, family.instruction or "")
    before, rest = prompt.split("\0")
    between, after = rest.split(IMAGE)
    special = [*SPECIALS[1:], before, between, after]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special,
        model_max_length=4096,
        padding_side="left",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    return tokenizer


def save(folder: Path, texts: Sequence[str], seed: int = 0) -> Path:
    """Write the checkpoint and return its folder."""
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = tokenizer_of(texts)
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 64) * 64, "hidden_size": HIDDEN,
            "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "max_position_embeddings": 1024, "rope_parameters": rope, "bos_token_id": None,
            "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
            "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        },
        vision_config={
            "depth": 2, "hidden_size": VISION_HIDDEN, "intermediate_size": 2 * VISION_HIDDEN, "num_heads": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE, "temporal_patch_size": 2, "out_hidden_size": HIDDEN,
            "num_position_embeddings": (PIXELS // PATCH) ** 2, "deepstack_visual_indexes": [0],
        },
        tie_word_embeddings=True,
        **ids,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(SPREAD)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": PIXELS * PIXELS, "longest_edge": PIXELS * PIXELS}
    Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=MERGE, size=size, image_mean=[0.5] * 3, image_std=[0.25] * 3
    ).save_pretrained(folder)
    return folder
