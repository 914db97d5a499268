"""How fast re-ranking is, beside sentence-transformers' CrossEncoder with the same weights and threads.

    python -m benchmarks.rerank --device cpu --model CHECKPOINT [--threads 2] [--pairs 50] [--rounds 3]
    python -m benchmarks.rerank --device cuda
    python -m benchmarks.rerank --device cpu --vision --shape tiny --pairs 4     the same code, to try it

On a CPU: 8 concurrent queries of so many pairs of 128 tokens, text cross-encoder; the peer's predict is
called per query, from 8 threads at once and, apart, one query after another. On a GPU: a Qwen3-VL-Reranker of
the 2B shape with random bf16 weights, 256 image tokens, so many pairs, the share of the device's measured
bf16 matmul rate, and the stage that bounds it. Rounds alternate, the best of each counts. The peer needs
sentence-transformers; where it is not installed or cannot run the model, only our figures are written, and
the file says why.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from vstore.rerank import CrossEncoderReranker, VisionLanguageReranker
from vstore.rerank.work import Work, recording
from vstore.types import Candidate

ROOT = Path(__file__).resolve().parent
N_QUERIES = 8
TOKENS = 128
IMAGE_SIDE = 512
"""32 pixels a token side: 16 x 16 = 256 tokens."""


def texts(model: str, n: int, seed: int) -> list[str]:
    """Return texts of words of the vocabulary, long enough to be cut to TOKENS."""
    words = [w for w in (Path(model) / "vocab.txt").read_text().split() if w.isascii() and w.isalpha()]
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words[1000:9000], TOKENS + 20)) for _ in range(n)]


def rate(work: Callable[[], Any], n_pairs: int) -> tuple[float, float]:
    """Return (pairs a second of wall time, pairs a second of processor time)."""
    started, used = perf_counter(), process_time()
    work()
    return n_pairs / (perf_counter() - started), n_pairs / (process_time() - used)


def best(works: dict[str, Callable[[], Any]], n_pairs: int, rounds: int) -> dict[str, dict[str, float]]:
    """Run all in turn, several rounds, and return the best of each."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(rate(work, n_pairs))
    return {
        name: {
            "pairs_per_s": round(max(wall for wall, _ in each), 2),
            "pairs_per_cpu_s": round(max(cpu for _, cpu in each), 2),
        }
        for name, each in found.items()
    }


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """Return what `work` gives for each query, all called at once."""
    with ThreadPoolExecutor(N_QUERIES) as pool:
        return list(pool.map(work, range(N_QUERIES)))


def text_rates(model: str, n_pairs: int, rounds: int) -> dict[str, Any]:
    """Measure the text cross-encoder."""
    queries = [" ".join(text.split()[:8]) for text in texts(model, N_QUERIES, 0)]
    documents = [texts(model, n_pairs, 1 + i) for i in range(N_QUERIES)]
    ours = CrossEncoderReranker(model, max_length=TOKENS, device="cpu", cache_scores=0)
    candidates = [[Candidate(i, text, None, {}) for i, text in enumerate(each)] for each in documents]

    def score(i: int) -> Any:
        return ours.score(queries[i], candidates[i])

    works: dict[str, Callable[[], Any]] = {"vstore, 8 at once": lambda: at_once(score)}
    result: dict[str, Any] = {}
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        result["peer"] = f"sentence-transformers is not installed: {error}"
    else:
        import torch

        peer = CrossEncoder(model, max_length=TOKENS, device="cpu")
        identity = torch.nn.Identity()

        def predict(i: int) -> Any:
            pairs = [(queries[i], text) for text in documents[i]]
            return peer.predict(pairs, activation_fn=identity, show_progress_bar=False)

        works["sentence-transformers, 8 at once"] = lambda: at_once(predict)
        works["sentence-transformers, one by one"] = lambda: [predict(i) for i in range(N_QUERIES)]
        difference = np.abs(score(0) - predict(0)).max()
        result["greatest_difference_of_scores"] = float(difference)
    rates = best(works, N_QUERIES * n_pairs, rounds)
    own = rates["vstore, 8 at once"]
    ratios = {
        f"{unit}, to {name}": round(own[unit] / each[unit], 3)
        for name, each in rates.items()
        if each is not own
        for unit in own
    }
    return {**result, "rates": rates, "ratios": ratios}


SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "2b": (
        {"vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
         "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128},
        {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16,
         "out_hidden_size": 2048, "deepstack_visual_indexes": [5, 11, 17]},
    ),
    "tiny": (
        {"vocab_size": 1024, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128},
        {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2,
         "out_hidden_size": 64, "deepstack_visual_indexes": [0]},
    ),
}  # fmt: skip
"""Of the language part and of the vision part."""


def save_random(folder: Path, shape: str, device: str) -> Path:
    """Write a Qwen3-VL-Reranker of a shape with random bf16 weights and a small tokenizer."""
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    sys.path.insert(0, str(ROOT.parent / "tests" / "rerank"))
    from tiny_vision import byte_tokenizer

    tokenizer = byte_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    language, eyes = SHAPES[shape]
    text = {
        **language,
        "max_position_embeddings": 32_768,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    }  # fmt: skip
    vision = {
        **eyes, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
        "num_position_embeddings": 2304,
    }  # fmt: skip
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Qwen3VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": 4096, "longest_edge": 1_843_200}
    mean = [0.5] * 3
    Qwen2VLImageProcessorPil(size=size, patch_size=16, image_mean=mean, image_std=mean).save_pretrained(
        folder
    )
    return folder


def photos(n: int) -> list[bytes]:
    """Return n different JPEG images of IMAGE_SIDE pixels."""
    from PIL import Image

    rng = np.random.default_rng(0)
    found = []
    for _ in range(n):
        coarse = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((IMAGE_SIDE, IMAGE_SIDE)).save(buffer, format="JPEG")
        found.append(buffer.getvalue())
    return found


def matmul_rate(device: str) -> float:
    """Return the device's measured bf16 matmul rate in floating-point operations a second."""
    import torch

    n = 8192 if device == "cuda" else 512
    left, right = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        left @ right
    wait()
    started = perf_counter()
    for _ in range(20):
        left @ right
    wait()
    return 20 * 2 * n**3 / (perf_counter() - started)


def vision_peer(folder: Path, device: str, query: str, images: list[bytes]) -> Callable[[], Any] | str:
    """Return what scores the pairs by sentence-transformers, or why it cannot."""
    try:
        from PIL import Image
        from sentence_transformers import CrossEncoder

        peer = CrossEncoder(str(folder), device=device, model_kwargs={"dtype": "bfloat16"})

        def predict() -> Any:
            # It is given the same bytes, so it pays for decoding them too.
            pairs = [(query, {"image": Image.open(io.BytesIO(each)).convert("RGB")}) for each in images]
            return peer.predict(pairs, show_progress_bar=False)

        predict()
    except Exception as error:  # Whatever it raises over a model that it does not know: that is the result.
        return f"not measured: {type(error).__name__}: {str(error)[:300]}"
    return predict


def vision_rates(n_pairs: int, rounds: int, device: str = "cuda", shape: str = "2b") -> dict[str, Any]:
    """Measure the vision-language re-ranker."""
    import torch

    query, images = "a red circle", photos(n_pairs)
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_random(Path(scratch), shape, device)
        model = VisionLanguageReranker(folder, device=device, dtype="bfloat16", cache_scores=0)
        peer = vision_peer(folder, device, query, images)
    n_weights = sum(weight.numel() for weight in model.scorer.model.parameters())
    documents = [Candidate(i, None, image, {}) for i, image in enumerate(images)]
    model.score(query, documents)
    works: dict[str, Callable[[], Any]] = {"vstore": lambda: model.score(query, documents)}
    if not isinstance(peer, str):
        works["sentence-transformers"] = peer
    rates = best(works, n_pairs, rounds)
    work = Work()
    with recording(work):
        model.score(query, documents)
    n_tokens = sum(model.scorer.measure((query, None), (None, d.image))[0] for d in documents)
    # Two operations a weight and token; the embedding table is only looked up.
    looked_up = SHAPES[shape][0]["vocab_size"] * SHAPES[shape][0]["hidden_size"]
    operations = 2 * (n_weights - looked_up) * n_tokens / n_pairs
    device_rate = matmul_rate(device)
    own = rates["vstore"]["pairs_per_s"]
    stages = {"decode_ms": work.decode_ms, "wait_ms": work.wait_ms, "forward_ms": work.forward_ms}
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "shape": shape,
        "rates": rates,
        "ratios": {name: round(own / each["pairs_per_s"], 3) for name, each in rates.items()},
        "tokens_per_pair": n_tokens / n_pairs,
        "bf16_matmul_per_s": device_rate,
        "share_of_matmul_rate": operations * own / device_rate,
        "stages_ms": {name: round(each, 1) for name, each in stages.items()},
        "bound_by": "decoding" if stages["decode_ms"] / 4 > stages["forward_ms"] else "the forward pass",
        "peer": peer if isinstance(peer, str) else "measured",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", help="CPU: a cross-encoder's folder, as benchmarks/models.py makes it")
    parser.add_argument("--vision", action="store_true", help="CPU: the vision-language model")
    parser.add_argument("--shape", choices=list(SHAPES), default="2b", help="of the vision-language model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(arguments)
    import torch

    if asked.device == "cpu" and not asked.vision:
        if asked.model is None:
            parser.error("--device cpu needs --model")
        torch.set_num_threads(asked.threads)
        result = text_rates(asked.model, asked.pairs, asked.rounds)
    else:
        if asked.device == "cuda" and not torch.cuda.is_available():
            parser.error("--device cuda: torch sees no GPU here")
        result = vision_rates(asked.pairs, asked.rounds, asked.device, asked.shape)
    command = f"python -m benchmarks.rerank --device {asked.device} --threads {asked.threads} "
    report = {"command": f"{command}--pairs {asked.pairs} --rounds {asked.rounds}", **result}
    out = asked.out or ROOT / "results" / f"rerank_{asked.device}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
