"""Vision-language checkpoints of the real classes, about a megabyte each, made without a download."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

# fmt: off
SPECIALS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]
WORDS = [
    "yes", "no", "True", "False", "1", "0", "system", "user", "assistant", "query", "document",
    "instruct", "red", "green", "blue", "yellow", "circle", "square", "triangle", "the", "of", "on",
    "in", "with", "and", "is", "this", "image", "shows", "photo", "picture", "vector", "search", "rank",
    "relevant", "passage", "answer",
]
# fmt: on


def byte_tokenizer() -> Any:
    """Return a byte-level BPE of about 500 entries: any text encodes, the answer words are one token each."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import Qwen2Tokenizer

    raw = Tokenizer(BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    lines = [word for word in WORDS for _ in range(50)] + [" " + word for word in WORDS for _ in range(50)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(lines, BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(raw.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIALS[1:],
        model_max_length=32768,
        padding_side="left",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIALS[1:]})
    return tokenizer


def spread(model: Any, factor: float = 4.0) -> Any:
    """Scale random weights up: at the stock 0.02 a model of three layers gives nearly equal scores."""
    import torch

    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(factor)
    return model.eval()


def _text_config(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        **more,
    }


def _ids(tokenizer: Any) -> dict[str, int]:
    names = {
        "image": "image_pad",
        "video": "video_pad",
        "vision_start": "vision_start",
        "vision_end": "vision_end",
    }
    return {f"{k}_token_id": tokenizer.convert_tokens_to_ids(f"<|{v}|>") for k, v in names.items()}


def qwen2_vl_config(tokenizer: Any, tied: bool = True) -> Any:
    from transformers import Qwen2VLConfig

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]}
    vision = {
        "depth": 2, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2, "num_heads": 2, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    return Qwen2VLConfig(
        text_config=_text_config(tokenizer, rope_parameters=rope),
        vision_config=vision,
        tie_word_embeddings=tied,
        **_ids(tokenizer),
    )


def _qwen3_vl_config(tokenizer: Any) -> Any:
    from transformers import Qwen3VLConfig

    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    vision = {
        "depth": 4, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 64,
        "num_position_embeddings": 64, "deepstack_visual_indexes": [1, 2],
    }  # fmt: skip
    return Qwen3VLConfig(
        text_config=_text_config(tokenizer, rope_parameters=rope, head_dim=16),
        vision_config=vision,
        tie_word_embeddings=True,
        **_ids(tokenizer),
    )


def save_vision(folder: Path, family: str, seed: int = 0) -> Path:
    """Write a random model of a family, laid out as published ("qwen3_vl", "qwen2_vl", "jina_m0")."""
    import torch
    from transformers import Qwen2VLForConditionalGeneration, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    if family == "qwen3_vl":
        model = Qwen3VLForConditionalGeneration(_qwen3_vl_config(tokenizer))
        side, mean = 32, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "patch_size": 16}
    else:
        model = Qwen2VLForConditionalGeneration(qwen2_vl_config(tokenizer, family != "jina_m0"))
        side, mean = 28, {}
    size = {"shortest_edge": 4 * side * side, "longest_edge": 64 * side * side}
    spread(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(size=size, **mean).save_pretrained(folder)
    if family == "jina_m0":
        _swap_head(folder, 64, seed)
    return folder


def _swap_head(folder: Path, hidden: int, seed: int) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    random = torch.Generator().manual_seed(seed + 1)
    file = folder / "model.safetensors"
    weights = {name: tensor for name, tensor in load_file(file).items() if name != "lm_head.weight"}
    weights["score.0.weight"] = torch.randn(hidden, hidden, generator=random) * 0.2
    weights["score.0.bias"] = torch.zeros(hidden)
    weights["score.2.weight"] = torch.randn(1, hidden, generator=random) * 0.2
    weights["score.2.bias"] = torch.full((1,), 2.65)
    save_file(weights, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["JinaVLForRanking"]}))


def save_adapter(folder: Path, base: Path, seed: int = 5) -> Path:
    """Write a LoRA adapter over two layers of a checkpoint, as peft lays it out."""
    import torch
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(seed)
    weights = {}
    for layer, name, wide in ((0, "self_attn.q_proj", 64), (2, "mlp.down_proj", 128)):
        stem = f"base_model.model.model.language_model.layers.{layer}.{name}"
        weights[f"{stem}.lora_A.weight"] = torch.randn(4, wide, generator=random)
        weights[f"{stem}.lora_B.weight"] = torch.randn(64, 4, generator=random)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors")
    described = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 4, "lora_alpha": 2}
    (folder / "adapter_config.json").write_text(json.dumps(described))
    return folder


REMOTE_MODEL = """
import torch
from transformers import PreTrainedModel, PretrainedConfig, AutoConfig
from transformers.modeling_outputs import SequenceClassifierOutput


class TinyVLConfig(PretrainedConfig):
    model_type = "tiny_nemotron_vl"

    def __init__(self, width=16, **kwargs):
        self.width = width
        super().__init__(**kwargs)


class TinyVLForSequenceClassification(PreTrainedModel):
    config_class = TinyVLConfig
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.words = torch.nn.Embedding(256, config.width)
        self.pixels = torch.nn.Linear(3, config.width)
        self.score = torch.nn.Linear(config.width, 1)
        self.post_init()

    def forward(self, input_ids, attention_mask, pixel_values, **kwargs):
        mask = attention_mask.unsqueeze(-1).to(self.words.weight.dtype)
        text = (self.words(input_ids) * mask).sum(1) / mask.sum(1)
        return SequenceClassifierOutput(logits=self.score(torch.tanh(text + self.pixels(pixel_values))))
"""
REMOTE_PROCESSOR = """
import numpy as np
import torch
from transformers import ProcessorMixin


class TinyVLProcessor(ProcessorMixin):
    def __init__(self, **kwargs):
        self.settings = kwargs

    @classmethod
    def from_pretrained(cls, path, **kwargs):
        return cls(**kwargs)

    def process_queries_documents_crossencoder(self, examples):
        texts = [f"question:{e['question']} \\n \\n passage:{e['doc_text']}".encode() for e in examples]
        longest = max(map(len, texts))
        ids = torch.tensor([list(t) + [0] * (longest - len(t)) for t in texts])
        mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in texts])
        means = [
            np.zeros(3) if isinstance(e["doc_image"], str) else np.asarray(e["doc_image"]).mean((0, 1)) / 255
            for e in examples
        ]
        pixels = torch.tensor(np.array(means), dtype=torch.float32)
        return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "note": "no tensor"}
"""


def save_remote(folder: Path) -> Path:
    """Write a checkpoint with code of its own, and the processor's method of llama-nemotron-rerank-vl."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "modeling_tiny_vl.py").write_text(REMOTE_MODEL)
    (folder / "processing_tiny_vl.py").write_text(REMOTE_PROCESSOR)
    config = {
        "model_type": "tiny_nemotron_vl",
        "architectures": ["TinyVLForSequenceClassification"],
        "auto_map": {
            "AutoConfig": "modeling_tiny_vl.TinyVLConfig",
            "AutoModelForSequenceClassification": "modeling_tiny_vl.TinyVLForSequenceClassification",
            "AutoProcessor": "processing_tiny_vl.TinyVLProcessor",
        },
        "width": 16,
        "num_labels": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    processor = {
        "processor_class": "TinyVLProcessor",
        "auto_map": {"AutoProcessor": "processing_tiny_vl.TinyVLProcessor"},
    }
    (folder / "processor_config.json").write_text(json.dumps(processor))
    random = torch.Generator().manual_seed(0)
    shapes = {
        "words.weight": (256, 16), "pixels.weight": (16, 3), "pixels.bias": (16,), "score.weight": (1, 16),
        "score.bias": (1,),
    }  # fmt: skip
    weights = {name: torch.randn(shape, generator=random) * 3 for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def swatch(color: str, width: int = 96, height: int = 96) -> Any:
    """Return a PIL picture of a coloured ellipse on white."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).ellipse((width // 6, height // 6, width * 5 // 6, height * 5 // 6), fill=color)
    return image


def png(color: str, width: int = 96, height: int = 96) -> bytes:
    """Return the same as PNG bytes."""
    buffer = io.BytesIO()
    swatch(color, width, height).save(buffer, format="PNG")
    return buffer.getvalue()


def save_colqwen2(folder: Path, seed: int = 0) -> Path:
    """Write a random ColQwen2 of 16 dimensions."""
    import torch
    from transformers import ColQwen2Config, ColQwen2ForRetrieval
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    config = ColQwen2Config(vlm_config=qwen2_vl_config(tokenizer).to_dict(), embedding_dim=16)
    spread(ColQwen2ForRetrieval(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": 4 * 28 * 28, "longest_edge": 64 * 28 * 28}
    Qwen2VLImageProcessorPil(size=size).save_pretrained(folder)
    return folder
