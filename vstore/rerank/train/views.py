"""Images as training sees them: prepared once, kept within a limit, and in augmented versions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vstore.rerank.images import ImageReader
from vstore.rerank.score_cache import digest
from vstore.settings import require

Augment = Callable[[Any, np.random.Generator], Any]
"""(PIL image in RGB, random numbers) -> a PIL image."""


@dataclass(frozen=True, slots=True)
class View:
    """One version of one image: the picture, and what the processor made of it."""

    picture: Any
    pixels: Any
    grid: Any


class Views:
    """Versions of images by content, the least recently used dropped first.

    Version 0 is the image itself; the others are `augment`ed by random numbers that follow from the seed,
    the content and the version, so that a training that goes on elsewhere sees the same ones.

    Args:
        reader: opens image references.
        process: PIL image -> (pixels, grid), both tensors.
        augment: makes a version.
        seed: of the versions.
        max_bytes: of the pixels that are kept.
    """

    def __init__(
        self,
        reader: ImageReader,
        process: Callable[[Any], tuple[Any, Any]],
        augment: Augment | None,
        seed: int,
        max_bytes: int = 2 << 30,
    ) -> None:
        self._reader, self._process, self._augment, self._seed = reader, process, augment, seed
        self._max_bytes = max_bytes
        self._kept: OrderedDict[tuple[bytes, int], View] = OrderedDict()
        self._n_bytes = 0

    def get(self, image: Any, version: int) -> View:
        """Return a version of an image.

        Raises:
            InvalidDocument: it is missing, refused or damaged.
        """
        content = digest(None, image)
        key = (content, version if self._augment is not None else 0)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        picture = self._reader.decode(image)
        if key[1] and self._augment is not None:
            random = np.random.default_rng([self._seed, key[1], int.from_bytes(content[:8], "little")])
            picture = self._augment(picture, random)
        made = View(picture, *self._process(picture))
        self._kept[key] = made
        self._n_bytes += made.pixels.nbytes
        while self._n_bytes > self._max_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._n_bytes -= dropped.pixels.nbytes
        return made


@dataclass(frozen=True, slots=True)
class PhotoAugment:
    """Crops, turns, mirrors, re-colours and covers parts of a photo at random.

    Raises:
        InvalidSetting: a value outside its limits.
    """

    crop: float = 0.3
    """At most this share of each side is cut off."""
    mirror: bool = True
    rotate: float = 0.0
    """Degrees at most, either way; what comes from outside has the photo's mean colour."""
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    tint: float = 0.0
    """Each of red, green and blue is multiplied by 1 - x to 1 + x, as other lamps do. The three above: all
    alike, about grey, about the pixel's grey."""
    erase: float = 0.0
    """Half of the photos get a rectangle of the mean colour, of at most this share of each side (Zhong et al.
    2017)."""

    def __post_init__(self) -> None:
        for name in ("crop", "brightness", "contrast", "saturation", "tint", "erase"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} is {value!r}; it must be from 0 to below 1")
        require(0 <= self.rotate <= 180, f"rotate is {self.rotate!r}; it must be from 0 to 180 degrees")

    def __call__(self, image: Any, random: np.random.Generator) -> Any:
        """Return a changed copy of a PIL image in RGB, of its size."""
        from PIL import Image

        mean = np.asarray(image.resize((1, 1), Image.Resampling.BOX), dtype=np.float64)[0, 0]
        fill = tuple(int(each) for each in mean)
        made = image.transform(
            image.size,
            Image.Transform.AFFINE,
            self._place(image.width, image.height, random),
            Image.Resampling.BILINEAR,
            fillcolor=fill,
        )
        if self.erase and random.random() < 0.5:
            wide, high = (max(int(side * self.erase * random.random()), 1) for side in made.size)
            left = int(random.integers(0, made.width - wide + 1))
            top = int(random.integers(0, made.height - high + 1))
            made.paste(fill, (left, top, left + wide, top + high))
        return made.convert("RGB", self._colour(mean, random))

    def _place(self, width: int, height: int, random: np.random.Generator) -> tuple[float, ...]:
        """Return the affine map from the new photo's pixels to the old one's."""
        share = 1 - self.crop * random.random()
        angle = np.deg2rad(self.rotate) * (2 * random.random() - 1)
        turn = share * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        if self.mirror and random.random() < 0.5:
            turn[:, 0] *= -1
        free = (1 - share) / 2 * np.array([width, height])
        middle = np.array([width, height]) / 2 + free * random.uniform(-1, 1, 2)
        shift = middle - turn @ (np.array([width, height]) / 2)
        return (turn[0, 0], turn[0, 1], shift[0], turn[1, 0], turn[1, 1], shift[1])

    def _colour(self, mean: npt.NDArray[np.float64], random: np.random.Generator) -> tuple[float, ...]:
        """Return the 3 x 4 matrix of the new colours."""
        grey = np.array([0.299, 0.587, 0.114])
        brightness, contrast, saturation = (
            1 + spread * (2 * random.random() - 1)
            for spread in (self.brightness, self.contrast, self.saturation)
        )
        lamps = 1 + self.tint * random.uniform(-1, 1, 3)
        mixed = saturation * np.eye(3) + (1 - saturation) * grey
        matrix = brightness * contrast * lamps[:, None] * mixed
        level = brightness * (1 - contrast) * float(grey @ mean)
        return tuple(np.column_stack([matrix, np.full(3, level)]).ravel().tolist())
