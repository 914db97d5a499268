"""Grocery photos, and a first stage for them that needs no model but a sentence embedder.

Photos become classic descriptors: an HSV colour histogram and oriented gradients. Names become points among
them: all-MiniLM-L6-v2 of the product's name, mapped by a ridge regression that is fitted to the train photos,
the ridge chosen on the validation photos. It is what a person has who has labelled photos and no CLIP.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vstore.rerank.metrics import ndcg

SIDE = 48
CELLS = 4
RIDGES = (0.1, 1.0, 10.0, 100.0)
DESCRIPTORS = {"colour+gradients": ("colour", "gradients"), "colour": ("colour", "centre")}
"""First stages: which blocks their vectors have."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Photo:
    """One photo as stored: encoded bytes, and what it is labelled."""

    name: str
    split: str
    product: int
    coarse: str
    image: bytes


@dataclass(frozen=True)
class Grocery:
    """Photos and products; `names[p]` and `coarse[p]` are of product p."""

    photos: list[Photo]
    names: list[str]
    coarse: list[str]

    def of(self, *splits: str) -> list[int]:
        """Return the positions of the photos of some splits."""
        return [i for i, photo in enumerate(self.photos) if photo.split in splits]

    def contested(self) -> list[int]:
        """Return the products that share their coarse class with others: the rest have nothing to confuse."""
        return [p for p, coarse in enumerate(self.coarse) if self.coarse.count(coarse) > 1]


def load(folder: Path) -> Grocery:
    """Read grocery.json and photos.zip."""
    found = json.loads((folder / "grocery.json").read_text())
    products = sorted(found["products"], key=lambda each: int(each["product"]))
    names = [each["name"].replace("-", " ") for each in products]
    coarse = [each["coarse_name"] for each in products]
    with zipfile.ZipFile(folder / "photos.zip") as archive:
        photos = [
            Photo(p["photo"], p["split"], p["product"], coarse[p["product"]], archive.read(p["photo"]))
            for p in found["photos"]
        ]
    return Grocery(photos, names, coarse)


def described(photos: Sequence[Photo], cache: Path) -> dict[str, Floats]:
    """Return float32[n, width] by block: colour (144), centre (144), gradients (128); rows of unit length."""
    if not cache.exists():
        rows = [_blocks(photo.image) for photo in photos]
        blocks = {name: np.array([row[name] for row in rows], dtype=np.float32) for name in rows[0]}
        np.savez(cache, **blocks)
    with np.load(cache) as found:
        return {name: found[name] for name in found.files}


def _blocks(image: bytes) -> dict[str, Floats]:
    from PIL import Image

    picture = Image.open(io.BytesIO(image)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    hsv = np.asarray(picture.convert("HSV"), dtype=np.int64)
    bins = (hsv[..., 0] * 12 // 256 * 4 + hsv[..., 1] // 64) * 3 + hsv[..., 2] * 3 // 256
    quarter = SIDE // 4
    gray = np.asarray(picture, dtype=np.float32).mean(2) / 255
    down, right = np.gradient(gray)
    strength = np.hypot(down, right)
    angle = (np.arctan2(down, right) % np.pi / np.pi * 8).astype(np.int64).clip(0, 7)
    wide = SIDE // CELLS
    cells = np.arange(SIDE) // wide
    cell = (cells[:, None] * CELLS + cells[None, :]) * 8 + angle
    gradients = np.bincount(cell.ravel(), strength.ravel(), CELLS * CELLS * 8)
    return {
        # Hellinger's map: the root of a histogram has length 1.
        "colour": np.sqrt(np.bincount(bins.ravel(), minlength=144) / bins.size).astype(np.float32),
        "centre": np.sqrt(
            np.bincount(bins[quarter:-quarter, quarter:-quarter].ravel(), minlength=144) / (bins.size / 4)
        ).astype(np.float32),
        "gradients": (gradients / max(float(np.linalg.norm(gradients)), 1e-9)).astype(np.float32),
    }


def hold_out_scenes(data: Grocery, blocks: dict[str, Floats], n_scenes: int = 10, seed: int = 0) -> Grocery:
    """Return the same photos with some of the train photos in a split "scene", whole scenes at a time.

    Validation photos were taken beside train photos, so they are too easy to choose by. Here each product's
    train photos fall into `n_scenes` clusters by look (Ward 1963), and one of middling size is held out.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    looks = np.concatenate([blocks["colour"], blocks["gradients"]], axis=1)
    random = np.random.default_rng(seed)
    held: set[int] = set()
    for p in range(len(data.names)):
        rows = np.array([i for i in data.of("train") if data.photos[i].product == p])
        cluster = fcluster(linkage(looks[rows], "ward"), n_scenes, "maxclust")
        sizes = np.bincount(cluster)[1:]
        far = np.abs(sizes - len(rows) / n_scenes) + random.random(len(sizes))
        held.update(rows[cluster == np.argmin(far) + 1].tolist())
    photos = [replace(photo, split="scene") if i in held else photo for i, photo in enumerate(data.photos)]
    return Grocery(photos, data.names, data.coarse)


@dataclass(frozen=True)
class FirstStage:
    """Vectors of all photos and of all product names, of one space; the metric is cosine."""

    name: str
    photos: Floats
    names: Floats
    ridge: float


def first_stage(name: str, data: Grocery, blocks: dict[str, Floats], text: Floats) -> FirstStage:
    """Fit a first stage on the train photos, its ridge chosen by nDCG@10 on the validation photos."""
    photos = np.concatenate([blocks[each] for each in DESCRIPTORS[name]], axis=1)
    train, val = data.of("train"), data.of("val")
    photos = photos - photos[train].mean(0)
    product = np.array([photo.product for photo in data.photos])
    asked = text[product[train]]
    found = []
    for ridge in RIDGES:
        weights = np.linalg.solve(
            asked.T @ asked + ridge * np.eye(asked.shape[1], dtype=np.float32), asked.T @ photos[train]
        )
        made = FirstStage(name, photos, (text @ weights).astype(np.float32), ridge)
        found.append((_quality(made, data, product, val), made))
    return max(found, key=lambda each: each[0])[1]


def _quality(made: FirstStage, data: Grocery, product: npt.NDArray[np.int64], rows: list[int]) -> float:
    scores = []
    for p in data.contested():
        there = [i for i in rows if data.photos[i].coarse == data.coarse[p]]
        judged = {i: 1.0 for i in there if product[i] == p}
        if judged:
            vectors = made.photos[there]
            near = vectors @ made.names[p] / np.maximum(np.linalg.norm(vectors, axis=1), 1e-9)
            scores.append(ndcg([there[i] for i in np.argsort(-near)], judged))
    return float(np.mean(scores))
