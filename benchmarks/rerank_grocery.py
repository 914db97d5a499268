"""Does a re-ranker that was fine-tuned here help? Photos: query = product name, filter = coarse class.

    python -m benchmarks.rerank_grocery --data FOLDER --embedder CHECKPOINT --work FOLDER
        [--until STEP] [--threads 1] [--out FILE]

A Qwen3-VL of 1.5 million random weights (`tiny_qwen`) is trained by `vstore.rerank.train` on the train
photos, in two parts (`train`). Then every product's name is asked for among the test photos of its coarse
class, and the first 50 hits are re-ranked, over each first stage of `grocery`, fitted to the same train
photos. After that the re-ranker's scores are distilled into an adapter on the names' vectors. A run that is
stopped goes on where it was; --until stops it at a step of the first part.

No test photo takes part in training, and nothing is chosen by a figure of the run: steps, views and blends
are constants, and every one of `WAYS` is written down. The first part holds a tenth
of the train photos out, whole scenes. The second part was added when the test figures of the first were
known; docs/TRAINING.md has all runs of both.

FOLDER holds grocery.json and photos.zip (marcusklasson/GroceryStoreDataset at 160 pixels); CHECKPOINT is what
`python benchmarks/models.py FOLDER --embedder` prints. `benchmarks.eval_pages` makes a page of the result.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import vstore
from benchmarks import grocery, tiny_qwen
from benchmarks.grocery import FirstStage, Grocery
from benchmarks.models import embed
from benchmarks.report import machine, rounded, versions
from vstore.rerank import Rerank, VisionLanguageReranker
from vstore.rerank.evaluation import EvalQuery, evaluate
from vstore.rerank.train import Distilled, PhotoAugment, TrainQuery, TrainSettings, distill, fine_tune

DEPTH = 50
WAYS = ((1, 0.0), (4, 0.25), (4, 0.0), (4, 0.5))
"""(views of a photo, weight of the first stage's score). First the defaults, then what the held-out scenes
chose after the first part, then what was named before the second."""
SLICE = 300
"""Hits that an adapter learns from: more than any coarse class has photos."""
RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0)
K = 10
REPORT = "training.json"
RESULT = Path(__file__).parent / "results" / "rerank_grocery.json"
SETTINGS = TrainSettings(
    n_steps=6500,
    learning_rate=3e-3,
    warmup=0.05,
    weight_decay=0.2,
    average=0.998,
    batch_queries=6,
    n_positives=2,
    n_negatives=2,
    mine_depth=400,
    # Every photo is labelled: what is not an answer is wrong for certain.
    guard=None,
    eval_every=1000,
    checkpoint_every=100,
    patience=0,
    n_views=12,
)
LAST = replace(SETTINGS, n_steps=3000, learning_rate=1.5e-3, seed=1)
"""Of the second part."""
AUGMENT = PhotoAugment(
    crop=0.4, rotate=20, brightness=0.2, contrast=0.15, saturation=0.15, tint=0.05, erase=0.3
)
HARDER = PhotoAugment(
    crop=0.5, rotate=20, brightness=0.25, contrast=0.2, saturation=0.2, tint=0.08, erase=0.3
)


def collection_of(data: Grocery, stage: FirstStage, splits: Sequence[str]) -> vstore.Collection:
    """Return a collection in memory of the photos of some splits, keyed by position."""
    rows = data.of(*splits)
    photos = vstore.connect("memory://").create_collection(
        "photos", dim=stage.photos.shape[1], metric="cosine", fields={"coarse": "str", "split": "str"}
    )
    photos.upsert(
        rows,
        stage.photos[rows],
        attributes=[{"coarse": data.photos[i].coarse, "split": data.photos[i].split} for i in rows],
        documents=[{"image": data.photos[i].image} for i in rows],
    )
    return photos


def train_queries(
    data: Grocery, stage: FirstStage, split: str, alone: bool = False, wide: bool = False
) -> list[TrainQuery]:
    """Return a query for each product with photos in a split, under its coarse class.

    With `alone`, products without rivals there are asked for among all photos instead: theirs teach too.
    With `wide`, every product is, besides: two products that were photographed in two places can be told
    apart by the places, the same two among all others cannot.
    """
    found = []
    rivals = set(data.contested())
    for p, name in enumerate(data.names):
        positives = [i for i in data.of(split) if data.photos[i].product == p]
        if not positives:
            continue
        if p in rivals or not (alone or wide):
            only = {"coarse": data.coarse[p], "split": split}
            found.append(TrainQuery(stage.names[p], name, positives, only))
        if wide or (alone and p not in rivals):
            found.append(TrainQuery(stage.names[p], name, positives, {"split": split}))
    return found


def train(data: Grocery, held: Grocery, stages: dict[str, FirstStage], asked: argparse.Namespace) -> bool:
    """Fine-tune in two parts, or go on with them; return whether it is over.

    First among rivals, without the held-out scenes; then on all train photos, every product among all others
    besides, portraits with all their pixels (sides are cut to whole tokens: with one limit for all, a photo
    of 3 : 4 is 40 x 60 and a square one 60 x 60).
    """
    base, first, tuned = (asked.work / name for name in ("base", "first", "tuned"))
    if not (base / "config.json").exists():
        tiny_qwen.save(base, data.names)
    if not (first / REPORT).exists():
        result = fine_tune(
            VisionLanguageReranker(base, device="cpu"),
            collection_of(held, stages["blind"], ("train", "scene")),
            train_queries(held, stages["blind"], "train", alone=True),
            first,
            settings=SETTINGS,
            held_out=train_queries(held, stages["blind"], "scene"),
            augment=AUGMENT,
            until=asked.until,
        )
        for step, loss, found in result.history:
            print(f"step {step}: loss {loss:.3f}, nDCG@10 of the held-out scenes {found:.3f}")
        if not result.finished:
            print(f"stopped at step {result.n_steps}; run the command again to go on")
            return False
    if not (tuned / REPORT).exists():
        fine_tune(
            VisionLanguageReranker(first, device="cpu", max_pixels=tiny_qwen.PIXELS**2 * 4 // 3),
            collection_of(data, stages["first"], ("train",)),
            train_queries(data, stages["first"], "train", wide=True),
            tuned,
            settings=LAST,
            held_out=[],
            augment=HARDER,
        )
    return True


class Remembering:
    """A re-ranker whose scores outlast an `evaluate`, which makes models forget to time them fairly."""

    def __init__(self, model: VisionLanguageReranker) -> None:
        self.name, self.score = model.name, model.score


def eval_queries(data: Grocery, stage: FirstStage, split: str, products: Sequence[int]) -> list[EvalQuery]:
    """Return the names of the products that have photos in a split, under their coarse class."""
    queries = []
    for p in products:
        judged = {i: 1.0 for i in data.of(split) if data.photos[i].product == p}
        if judged:
            only = {"coarse": data.coarse[p]}
            queries.append(EvalQuery(data.names[p], stage.names[p], data.names[p], dict(judged), only))
    return queries


def figures(
    data: Grocery, stage: FirstStage, rerank: Rerank, split: str, products: Sequence[int]
) -> dict[str, Any]:
    """Return what a re-ranking stage does to the names of some products among the photos of a split."""
    photos = collection_of(data, stage, (split,))
    found = evaluate(
        lambda query, n: photos.search(query.vector, k=n, filter=query.filter),
        eval_queries(data, stage, split, products),
        rerank,
        k=K,
        depths=(DEPTH,),
    )
    (one,) = found.depths
    return {
        "n_queries": found.n_queries,
        **{name: value for name, value in asdict(one).items() if not name.endswith(("_ms", "_per_s"))},
    }


def judge(data: Grocery, stage: FirstStage, models: dict[int, Any]) -> dict[str, Any]:
    """Return the figures of one first stage on the test photos: all products, and those with rivals."""
    everything, rivals = range(len(data.names)), data.contested()
    ways = []
    for views, blend in WAYS:
        rerank = Rerank(models[views], blend=blend)
        ways.append(
            {
                "views": views,
                "blend": blend,
                "all_products": figures(data, stage, rerank, "test", everything),
                "products_with_rivals": figures(data, stage, rerank, "test", rivals),
            }
        )
    return {"first_stage": stage.name, "ridge": stage.ridge, "ways": ways}


def adapt(data: Grocery, stage: FirstStage, model: Any) -> dict[str, Any]:
    """Return what an adapter on the names' vectors does, fitted to train photos, judged on test photos.

    The queries are the same, as a shop's are, and the photos new. Validation photos choose the ridge, by the
    margins among them.
    """
    photos = collection_of(data, stage, ("train", "val", "test"))
    rivals = data.contested()

    def fit(ridge: float, split: str) -> Distilled:
        adapter = distill(
            model,
            photos,
            [
                replace(query, positives=[])
                for query in train_queries(data, stage, "train")
                if query.document in {data.names[p] for p in rivals}
            ],
            depth=SLICE,
            recall_at=DEPTH,
            ridges=(ridge,),
            held_out=[
                query
                for query in train_queries(data, stage, split)
                if query.document in {data.names[p] for p in rivals}
            ],
            progress=False,
        )
        assert adapter.result is not None
        return adapter.result

    ridge = min(RIDGES, key=lambda each: fit(each, "val").margin_mse_after)
    return {"first_stage": stage.name, **asdict(fit(ridge, "test"))}


def say(found: dict[str, Any]) -> None:
    """Print the figures."""
    for outcome in found["outcomes"]:
        for way in outcome["ways"]:
            for name in ("all_products", "products_with_rivals"):
                one = way[name]
                print(
                    f"{outcome['first_stage']:17} {way['views']} views, blend {way['blend']:<4} {name:21} "
                    f"nDCG@{K} {one['ndcg_before']:.3f} -> {one['ndcg_after']:.3f}, "
                    f"{one['ndcg_difference']:+.3f} "
                    f"({one['interval_95'][0]:+.3f} to {one['interval_95'][1]:+.3f})"
                )
    for one in found["adapters"]:
        print(
            f"{one['first_stage']:17} query adapter: recall@{DEPTH} of photos {one['recall_before']:.3f} -> "
            f"{one['recall_after']:.3f} ({one['n_held_out']} held-out queries)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--embedder", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where checkpoints lie between stops")
    parser.add_argument("--until", type=int, help="stop at this step; the same command goes on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(asked.threads)
    asked.work.mkdir(parents=True, exist_ok=True)
    data = grocery.load(asked.data)
    # Kept, so that a run goes on with the very same vectors.
    names = asked.work / "names.npy"
    if not names.exists():
        np.save(names, embed(asked.embedder, data.names))
    text = np.load(names)
    blocks = grocery.described(data.photos, asked.work / "descriptors.npz")
    held = grocery.hold_out_scenes(data, blocks)
    stages = [grocery.first_stage(name, data, blocks, text) for name in grocery.DESCRIPTORS]
    blind = grocery.first_stage(stages[0].name, held, blocks, text)
    if not train(data, held, {"blind": blind, "first": stages[0]}, asked):
        return
    models = {
        views: Remembering(
            VisionLanguageReranker(asked.work / "tuned", device="cpu", cache_scores=50_000, views=views)
        )
        for views in {views for views, _ in WAYS}
    }
    outcome = {
        "command": "python -m benchmarks.rerank_grocery --data FOLDER --embedder CHECKPOINT --work FOLDER "
        f"--threads {asked.threads}",
        "machine": machine(),
        "versions": {**versions(), "torch": torch.__version__},
        "depth": DEPTH,
        "k": K,
        "training": [json.loads((asked.work / name / REPORT).read_text()) for name in ("first", "tuned")],
        "outcomes": [judge(data, stage, models) for stage in stages],
        "adapters": [adapt(data, stage, models[1]) for stage in stages],
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(rounded(outcome), indent=1) + "\n")
    say(outcome)
    print(f"wrote {asked.out}")


if __name__ == "__main__":
    main()
