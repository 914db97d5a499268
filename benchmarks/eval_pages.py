"""The pages of docs/reranking: `vstore eval` over Cranfield's abstracts and over the grocery photos.

    python -m benchmarks.eval_pages grocery --data FOLDER --embedder CHECKPOINT --model FOLDER --work FOLDER
    python -m benchmarks.eval_pages cranfield --data FOLDER --embedder CHECKPOINT --model CHECKPOINT
        --work FOLDER [--threads 2] [--out FOLDER] [options of vstore eval]

Writes a collection in a folder and its queries as a file, as a user has them, and runs the command over both:
results.md, results.png, results.json, and photos.jpg of photos. Options that are not listed go to it.

Grocery: the first stage is "colour+gradients" of `grocery`; --model is the folder "tuned" that
`benchmarks.rerank_grocery` wrote, --work its --work. Cranfield: MiniLM embeddings; --model: a cross-encoder
that reads the title and the passage of an abstract that shares most words with the query.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

import vstore
from benchmarks import grocery
from benchmarks.models import embed
from vstore.cli.app import main as vstore_command

PAGES = Path(__file__).parent.parent / "docs" / "reranking"
RERANK = {
    "grocery": ["--rerank", "vision-language", "--blend", "0"],
    "cranfield": [
        "--rerank",
        "passages",
        "--rerank-settings",
        '{"words": 72, "best": 1, "fields": ["title"]}',
        "--blend",
        "0.5",
    ],
}
"""What the benchmarks of the two sets say is the way to re-rank them."""


def write_queries(path: Path, queries: list[dict[str, Any]]) -> None:
    """Write one JSON object a line, as `vstore eval` reads them."""
    lines = (
        json.dumps({**query, "vector": [round(float(x), 6) for x in query["vector"]]}) for query in queries
    )
    path.write_text("\n".join(lines) + "\n")


def photos(asked: argparse.Namespace, db: vstore.Database, file: Path) -> None:
    """Write the test photos and the names of all products."""
    data = grocery.load(asked.data)
    names = asked.work / "names.npy"
    text = np.load(names) if names.exists() else embed(asked.embedder, data.names)
    blocks = grocery.described(data.photos, asked.work / "descriptors.npz")
    stage = grocery.first_stage("colour+gradients", data, blocks, text)
    rows = data.of("test")
    made = db.create_collection(
        "photos", dim=stage.photos.shape[1], metric="cosine", fields={"coarse": "str"}
    )
    made.upsert(
        rows,
        stage.photos[rows],
        attributes=[{"coarse": data.photos[i].coarse} for i in rows],
        documents=[{"image": data.photos[i].image} for i in rows],
    )
    queries = [
        {
            "id": name,
            "text": name,
            "vector": stage.names[p],
            "relevant": [i for i in rows if data.photos[i].product == p],
            "filter": {"coarse": data.coarse[p]},
        }
        for p, name in enumerate(data.names)
    ]
    write_queries(file, [query for query in queries if query["relevant"]])


def abstracts(asked: argparse.Namespace, db: vstore.Database, file: Path) -> None:
    """Write the abstracts, their titles as attributes, and the queries with judgments."""
    # It is run as a file of its own, whose neighbours are imported by their names alone.
    sys.path.insert(0, str(Path(__file__).parent))
    from benchmarks import rerank_cranfield

    data = rerank_cranfield.load(asked.data)
    vectors = embed(asked.embedder, [*data.texts, *data.queries])
    n = len(data.texts)
    candidates = [data.candidate(i) for i in range(n)]
    made = db.create_collection("abstracts", dim=vectors.shape[1], metric="cosine", fields={"title": "str"})
    made.upsert(
        range(n),
        vectors[:n],
        attributes=[dict(each.attributes) for each in candidates],
        documents=[{"text": each.text} for each in candidates],
    )
    queries = [
        {
            "id": str(q + 1),
            "text": text,
            "vector": vectors[n + q],
            "relevant": [[document, gain] for document, gain in data.judged[q].items()],
        }
        for q, text in enumerate(data.queries)
    ]
    write_queries(file, queries)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", choices=sorted(RERANK))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--embedder", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="for the collection; it is made anew")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="instead of the folder of the set under docs/reranking")
    asked, more = parser.parse_known_args()
    import torch

    torch.set_num_threads(asked.threads)
    folder = asked.work / "page"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write, name = (photos, "photos") if asked.set == "grocery" else (abstracts, "abstracts")
    with vstore.connect(folder / "store") as db:
        write(asked, db, folder / "queries.jsonl")
    out = asked.out or PAGES / asked.set
    arguments = ["eval", str(folder / "store"), name, str(folder / "queries.jsonl"), "--out", str(out)]
    vstore_command([*arguments, "--rerank-model", str(asked.model), *RERANK[asked.set], *more])


if __name__ == "__main__":
    main()
