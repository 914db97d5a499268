"""Does a re-ranker that was fine-tuned here help? Photos: query = product name, filter = coarse class.

    python -m benchmarks.rerank_grocery --data FOLDER --embedder CHECKPOINT --work FOLDER
        [--steps 8000] [--until STEP] [--threads 1] [--out FILE]

A Qwen3-VL of a megabyte with random weights (`tiny_qwen`) is trained by `vstore.rerank.train` on the train
photos but a tenth, held out by whole scenes, which choose its best step, the number of views and the blend:
validation photos were taken beside train photos and are too easy to choose by. Then every product's name is
asked for among the test photos of its coarse class, and the first 50 hits are re-ranked, over each first
stage of `grocery`, fitted to all train photos. After that the re-ranker's scores are distilled into an
adapter on query vectors, where photos ask for photos. A run that is stopped goes on where it was; --until
stops it at a step. No test photo takes part in training or choosing.

FOLDER holds grocery.json and photos.zip (marcusklasson/GroceryStoreDataset at 160 pixels); CHECKPOINT is what
`python benchmarks/models.py FOLDER --embedder` prints. Written: JSON, and photos before and after.
"""

from __future__ import annotations

import argparse
import io
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
from vstore.rerank.evaluation import EvalQuery, Evaluation, evaluate
from vstore.rerank.metrics import ndcg
from vstore.rerank.train import PhotoAugment, TrainQuery, TrainResult, TrainSettings, distill, fine_tune

DEPTH = 50
BLENDS = (0.0, 0.25, 0.5)
"""Weights of the first stage's score to choose from."""
VIEWS = (1, 4)
"""Views of a photo to choose from."""
K = 10
RESULT = Path(__file__).parent / "results" / "rerank_grocery.json"
SETTINGS = TrainSettings(
    n_steps=8000,
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
    eval_every=500,
    checkpoint_every=100,
    patience=0,
    n_views=12,
)
AUGMENT = PhotoAugment(
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


def train_queries(data: Grocery, stage: FirstStage, split: str, wide: bool = False) -> list[TrainQuery]:
    """Return a query for each product with photos in a split, under its coarse class.

    With `wide`, products are asked for among all photos besides: two products that were photographed in two
    places can be told apart by the places, the same two among all others cannot.
    """
    found = []
    rivals = set(data.contested())
    for p, name in enumerate(data.names):
        positives = [i for i in data.of(split) if data.photos[i].product == p]
        if positives and (p in rivals or not wide):
            only = {"coarse": data.coarse[p], "split": split}
            found.append(TrainQuery(stage.names[p], name, positives, only))
        if positives and wide:
            found.append(TrainQuery(stage.names[p], name, positives, {"split": split}))
    return found


def train(data: Grocery, stage: FirstStage, asked: argparse.Namespace) -> TrainResult:
    """Fine-tune, or go on with it."""
    base = asked.work / "base"
    if not (base / "config.json").exists():
        tiny_qwen.save(base, data.names)
    settings = SETTINGS if asked.steps is None else replace(SETTINGS, n_steps=asked.steps)
    return fine_tune(
        VisionLanguageReranker(base, device="cpu"),
        collection_of(data, stage, ("train", "scene")),
        train_queries(data, stage, "train", wide=True),
        asked.work / "tuned",
        settings=settings,
        held_out=train_queries(data, stage, "scene"),
        augment=AUGMENT,
        until=asked.until,
    )


def figures(
    data: Grocery, stage: FirstStage, rerank: Rerank, split: str, products: Sequence[int]
) -> Evaluation:
    """Return what a re-ranking stage does to the names of some products among the photos of a split."""
    photos = collection_of(data, stage, (split,))
    queries = []
    for p in products:
        judged = {i: 1.0 for i in data.of(split) if data.photos[i].product == p}
        if judged:
            only = {"coarse": data.coarse[p]}
            queries.append(EvalQuery(str(p), stage.names[p], data.names[p], dict(judged), only))
    return evaluate(
        lambda query, n: photos.search(query.vector, k=n, filter=query.filter),
        queries,
        rerank,
        k=K,
        depths=(DEPTH,),
    )


def choose(data: Grocery, stage: FirstStage, models: dict[int, Any]) -> dict[tuple[int, float], float]:
    """Return nDCG@10 on the held-out scenes, products with rivals, by (views, blend)."""
    rivals = data.contested()
    return {
        (views, blend): figures(data, stage, Rerank(model, blend=blend), "scene", rivals).depths[0].ndcg_after
        for views, model in models.items()
        for blend in BLENDS
    }


def judge(
    data: Grocery, stage: FirstStage, models: dict[int, Any], found: dict[tuple[int, float], float]
) -> dict[str, Any]:
    """Return the figures of one first stage on the test photos: all products, and those with rivals.

    With the views and blend that the held-out scenes chose, and by the model alone with one view.
    """
    views, blend = max(found, key=lambda each: found[each])
    plain, chosen = Rerank(models[1]), Rerank(models[views], blend=blend)
    everything, rivals = range(len(data.names)), data.contested()
    return {
        "first_stage": stage.name,
        "ridge": stage.ridge,
        "views": views,
        "blend": blend,
        "ndcg_on_held_out_scenes": [[*key, value] for key, value in found.items()],
        "all_products": asdict(figures(data, stage, chosen, "test", everything)),
        "products_with_rivals": asdict(figures(data, stage, chosen, "test", rivals)),
        "all_products_model_alone": asdict(figures(data, stage, plain, "test", everything)),
    }


def adapt(data: Grocery, stage: FirstStage, model: Any, n_queries: int = 300) -> dict[str, Any]:
    """Return what an adapter does: fitted to train photos among train photos, measured on other photos.

    A query is a photo, and the re-ranker reads its product's name. Held out: validation photos that ask for
    test photos.
    """
    photos = collection_of(data, stage, ("train", "val", "test"))
    contested = set(data.contested())

    def queries(split: str, among: str, labelled: bool) -> list[TrainQuery]:
        return [
            TrainQuery(
                stage.photos[i],
                data.names[data.photos[i].product],
                [j for j in data.of(among) if data.photos[j].product == data.photos[i].product]
                if labelled
                else [],
                {"coarse": data.photos[i].coarse, "split": among},
            )
            for i in data.of(split)
            if data.photos[i].product in contested
        ]

    fitted = queries("train", "train", False)
    chosen = np.random.default_rng(0).permutation(len(fitted))[:n_queries]
    adapter = distill(
        model, photos, [fitted[i] for i in sorted(chosen)], depth=DEPTH, held_out=queries("val", "test", True)
    )
    assert adapter.result is not None
    return {"first_stage": stage.name, **asdict(adapter.result)}


def draw(data: Grocery, stage: FirstStage, rerank: Rerank, path: Path) -> None:
    """Write the first eight photos before and after: the greatest gain, two from the middle, the worst."""
    from matplotlib.figure import Figure
    from PIL import Image

    photos = collection_of(data, stage, ("test",))
    rows = []
    for p in data.contested():
        judged = {i: 1.0 for i in data.of("test") if data.photos[i].product == p}
        only = {"coarse": data.coarse[p]}
        before = photos.search(stage.names[p], k=K, filter=only).ids
        after = photos.search(
            stage.names[p], k=K, filter=only, rerank=rerank, query_document=data.names[p]
        ).ids
        rows.append((ndcg(after, judged) - ndcg(before, judged), p, before, after, judged))
    rows.sort(key=lambda row: -row[0])
    shown = [rows[0], rows[len(rows) // 3], rows[2 * len(rows) // 3], rows[-1]]
    figure = Figure(figsize=(11, 2.4 * len(shown)), layout="constrained")
    for part, (gain, p, before, after, judged) in zip(
        figure.subfigures(len(shown), 1, squeeze=False)[:, 0], shown, strict=True
    ):
        part.suptitle(f"{data.names[p]!r} among {data.coarse[p]}: nDCG@10 {gain:+.2f}", fontsize=9)
        for line, (axes, ids) in enumerate(zip(part.subplots(2, 8), (before, after), strict=True)):
            for axis, key in zip(axes, ids, strict=False):
                axis.imshow(Image.open(io.BytesIO(data.photos[key].image)))
                for spine in axis.spines.values():
                    spine.set(color="green" if key in judged else "red", linewidth=3)
            for axis in axes:
                axis.set(xticks=[], yticks=[])
            axes[0].set_ylabel(("first stage", "re-ranked")[line], fontsize=8)
    figure.savefig(path, dpi=90)


def say(found: dict[str, Any]) -> None:
    """Print the figures."""
    for outcome in found["outcomes"]:
        for name in ("all_products", "products_with_rivals", "all_products_model_alone"):
            (one,) = outcome[name]["depths"]
            print(
                f"{outcome['first_stage']:18} {name:24} nDCG@{K} {one['ndcg_before']:.3f} -> "
                f"{one['ndcg_after']:.3f} ({one['interval_95'][0]:+.3f} to {one['interval_95'][1]:+.3f})"
            )
    for one in found["adapters"]:
        print(
            f"{one['first_stage']:18} query adapter: recall@{DEPTH} of photos {one['recall_before']:.3f} -> "
            f"{one['recall_after']:.3f} ({one['n_held_out']} held-out queries)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--embedder", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where checkpoints lie between stops")
    parser.add_argument("--steps", type=int, help="instead of those of the settings")
    parser.add_argument("--until", type=int, help="stop at this step; the same command goes on")
    parser.add_argument("--hold-out", action="store_true", help="train without a tenth, whole scenes")
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
    held = grocery.hold_out_scenes(data, blocks) if asked.hold_out else data
    # What chooses must not have seen the scenes; what is judged has what a user would have.
    blind = [grocery.first_stage(name, held, blocks, text) for name in grocery.DESCRIPTORS]
    stages = [grocery.first_stage(name, data, blocks, text) for name in grocery.DESCRIPTORS]
    report = asked.work / "tuned" / "training.json"
    if not report.exists():
        result = train(held, blind[0], asked)
        for step, loss, found in result.history:
            print(f"step {step}: loss {loss:.3f}, nDCG@10 of the held-out scenes {found:.3f}")
        if not result.finished:
            print(f"stopped at step {result.n_steps}; run the command again to go on")
            return
    models = {
        views: VisionLanguageReranker(asked.work / "tuned", device="cpu", cache_scores=50_000, views=views)
        for views in VIEWS
    }
    model = models[1]
    outcomes = [
        judge(data, stage, models, choose(held, fitted, models))
        for fitted, stage in zip(blind, stages, strict=True)
    ]
    first = outcomes[0]
    found = {
        "command": "python -m benchmarks.rerank_grocery --data FOLDER --embedder CHECKPOINT --work FOLDER "
        f"--threads {asked.threads}",
        "machine": machine(),
        "versions": {**versions(), "torch": torch.__version__},
        "n_weights": sum(weight.numel() for weight in model.scorer.model.parameters()),
        "depth": DEPTH,
        "k": K,
        "training": json.loads(report.read_text()),
        "outcomes": outcomes,
        "adapters": [adapt(data, stage, model) for stage in stages],
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(rounded(found), indent=1) + "\n")
    shown = Rerank(models[first["views"]], blend=first["blend"])
    draw(data, stages[0], shown, asked.out.with_suffix(".png"))
    say(found)
    print(f"wrote {asked.out}")


if __name__ == "__main__":
    main()
