"""Images as training sees them: prepared once, kept within a limit, and in augmented versions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    """Crops, mirrors and re-colours a photo at random.

    Raises:
        InvalidSetting: a value outside its limits.
    """

    crop: float = 0.3
    """At most this share of each side is cut off."""
    mirror: bool = True
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    """Each is multiplied by 1 - x to 1 + x."""

    def __post_init__(self) -> None:
        for name in ("crop", "brightness", "contrast", "saturation"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} is {value!r}; it must be from 0 to below 1")

    def __call__(self, image: Any, random: np.random.Generator) -> Any:
        """Return a changed copy of a PIL image."""
        from PIL import Image, ImageEnhance

        width, height = image.size
        share = 1 - self.crop * random.random()
        wide, high = max(int(width * share), 1), max(int(height * share), 1)
        left, top = int(random.integers(0, width - wide + 1)), int(random.integers(0, height - high + 1))
        made = image.crop((left, top, left + wide, top + high)).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        if self.mirror and random.random() < 0.5:
            made = made.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for kind, spread in (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        ):
            if spread:
                made = kind(made).enhance(1 + spread * (2 * random.random() - 1))
        return made
