"""Checkpoints that are LoRA adapters of a base model, as peft lays them out: found, merged when opened."""

from __future__ import annotations

import json
import math
from typing import Any

from vstore.errors import InvalidSetting
from vstore.rerank.torch_parts import check_loaded, checkpoint_file, read_weights
from vstore.settings import require


def base_of(path: str) -> str:
    """Return what an adapter's folder or name is an adapter of, and any other path as it is."""
    described = _described(path)
    return path if described is None else str(described["base_model_name_or_path"])


def open_weights(path: str, kind: Any, *, allowed: tuple[str, ...] = (), **options: Any) -> Any:
    """Return a model of transformers' class `kind`, an adapter merged into its base.

    Args:
        path: a checkpoint, or an adapter whose description names one.
        kind: has `from_pretrained`.
        allowed: weights that the checkpoint may lack.
        options: of `from_pretrained`.

    Raises:
        InvalidSetting: weights are missing, or the adapter does not fit.
    """
    base = base_of(path)
    model, info = kind.from_pretrained(base, output_loading_info=True, **options)
    check_loaded(base, info, allowed)
    described = _described(path)
    if described is not None:
        merge_adapter(model, described, read_weights(path, "", "adapter_model"), path)
    return model


def _described(path: str) -> dict[str, Any] | None:
    file = checkpoint_file(path, "adapter_config.json")
    if file is None:
        return None
    described: dict[str, Any] = json.loads(file.read_text())
    return described


def merge_adapter(model: Any, described: dict[str, Any], weights: dict[str, Any], path: str) -> None:
    """Add a LoRA adapter's products into a model's weights: W + B A * alpha / rank.

    LoRA: Hu et al. 2021, section 4.1.

    Raises:
        InvalidSetting: the adapter is of a kind other than plain LoRA, or does not fit the model.
    """
    special = [
        name
        for name in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication")
        if described.get(name)
    ]
    require(
        not special,
        f"the adapter {path!r} uses {', '.join(special)}, which is not read; merge it with peft first",
    )
    rank = described["r"]
    scale = described["lora_alpha"] / (math.sqrt(rank) if described.get("use_rslora") else rank)
    modules = dict(model.named_modules())
    merged = 0
    for name, down in weights.items():
        if not name.endswith(".lora_A.weight"):
            continue
        stem = name.removesuffix(".lora_A.weight")
        target = stem.removeprefix("base_model.model.")
        # Checkpoints older than transformers 4.52 name the layers without their part of the model.
        module = next(
            (
                modules[each]
                for each in (
                    target,
                    target.replace("model.layers", "model.language_model.layers"),
                    target.replace("visual.", "model.visual.", 1),
                )
                if each in modules
            ),
            None,
        )
        up = weights.get(f"{stem}.lora_B.weight")
        if module is None or up is None:
            raise InvalidSetting(f"the adapter {path!r} has {target}, which the base model does not have")
        weight = module.weight
        weight.data += (up.float() @ down.float() * scale).to(weight.dtype)
        merged += 1
    require(merged > 0, f"the adapter {path!r} has no LoRA weights")
