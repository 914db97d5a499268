"""Images however they are referred to: bytes, files, PIL images, store paths, and, where allowed, URLs.

Everything is bounded before it is decoded: bytes, pixels (known from the header), formats. What is
refused is refused with a reason that the stage's report repeats.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vstore.errors import InvalidDocument, MissingDependency
from vstore.settings import require

STORE_SCHEME = "store://"
"""An image reference that begins so is a path in the collection's own store."""
MIDDLE = 0.8
"""Share of each side that views of an image's middle keep."""
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What image references may be, and how large.

    Raises:
        InvalidSetting: a value outside its limits.
    """

    max_bytes: int = 32 << 20
    """Of one encoded image."""
    max_pixels: int = 64_000_000
    """Width times height in the header; a decompression bomb says its size there."""
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO")
    """What Pillow may decode."""
    allow_files: bool = True
    """Whether a reference may be a local file."""
    folder: str | None = None
    """Where it may lie: nothing outside this folder is read. None is anywhere."""
    allow_urls: tuple[str, ...] = ()
    """Hosts that http and https references may name; empty refuses every URL. Redirects are not followed."""
    timeout_s: float = 10.0
    """For a URL to answer."""

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)!r}; it must be 1 or more")
        require(self.timeout_s > 0, f"timeout_s is {self.timeout_s!r}; it must be above 0")
        for name in ("formats", "allow_urls"):
            value = getattr(self, name)
            require(
                not isinstance(value, str) and all(isinstance(each, str) for each in value),
                f"{name} is {value!r}; it must be a tuple of str",
            )


class ImageReader:
    """Opens image references under limits. Safe to use from several threads.

    Raises:
        MissingDependency: Pillow cannot be imported.
    """

    def __init__(
        self, limits: ImageLimits | None = None, read_store: Callable[[str], bytes] | None = None
    ) -> None:
        try:
            import PIL.Image
        except ImportError as error:
            raise MissingDependency(f"images need Pillow ({error}); run: pip install pillow") from error
        self._pil = PIL.Image
        self.limits = limits or ImageLimits()
        self._read_store = read_store

    def open(self, image: Any) -> Any:
        """Return a PIL image whose header was read and whose pixels were not.

        Args:
            image: encoded bytes, a path, `store://path`, a URL of an allowed host, or a PIL image.

        Raises:
            InvalidDocument: it is missing, refused, too large, of another format, or no image.
        """
        if hasattr(image, "mode") and hasattr(image, "convert"):
            self._check_size(image)
            return image
        encoded = self.read(image)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", self._pil.DecompressionBombWarning)
                opened = self._pil.open(io.BytesIO(encoded), formats=self.limits.formats)
        except self._pil.DecompressionBombError as error:
            raise InvalidDocument(f"image is a decompression bomb: {error}") from error
        except Exception as error:  # Codecs raise what they like over bad bytes.
            raise InvalidDocument(
                f"image of {len(encoded)} bytes cannot be read ({type(error).__name__}: {error}); "
                f"it must be one of "
                f"{', '.join(self.limits.formats)}"
            ) from error
        self._check_size(opened)
        return opened

    def decode(self, image: Any) -> Any:
        """Return a PIL image in RGB, decoded whole; transparency lies on white.

        Raises:
            InvalidDocument: as `open`, or its data is damaged.
        """
        opened = self.open(image)
        try:
            if opened.mode in ("RGBA", "LA", "PA") or "transparency" in opened.info:
                opened = opened.convert("RGBA")
                white = self._pil.new("RGBA", opened.size, "white")
                return self._pil.alpha_composite(white, opened).convert("RGB")
            return opened.convert("RGB")
        except Exception as error:
            raise InvalidDocument(f"image is damaged ({type(error).__name__}: {error})") from error

    def read(self, image: Any) -> bytes:
        """Return an image's encoded bytes.

        Raises:
            InvalidDocument: it is missing, refused or too large.
        """
        if isinstance(image, (bytes, bytearray, memoryview)):
            return self._bounded(bytes(image))
        if not isinstance(image, (str, os.PathLike)):
            raise InvalidDocument(
                f"image is a {type(image).__name__}; give encoded bytes, a path or a PIL image"
            )
        reference = os.fspath(image)
        if isinstance(reference, bytes):
            reference = os.fsdecode(reference)
        if reference.startswith(STORE_SCHEME):
            return self._from_store(reference)
        if "://" in reference:
            return self._from_url(reference)
        return self._from_file(reference)

    def _bounded(self, encoded: bytes) -> bytes:
        if len(encoded) > self.limits.max_bytes:
            raise InvalidDocument(f"image has {len(encoded)} bytes; the limit is {self.limits.max_bytes}")
        return encoded

    def _check_size(self, opened: Any) -> None:
        width, height = opened.size
        if width * height > self.limits.max_pixels:
            raise InvalidDocument(
                f"image has {width} x {height} pixels; the limit is {self.limits.max_pixels} in all"
            )
        if not width or not height:
            raise InvalidDocument(f"image has {width} x {height} pixels")

    def _from_store(self, reference: str) -> bytes:
        if self._read_store is None:
            raise InvalidDocument(f"image {reference!r} is a store path, and this reader was given no store")
        try:
            return self._bounded(self._read_store(reference.removeprefix(STORE_SCHEME)))
        except InvalidDocument:
            raise
        except Exception as error:
            raise InvalidDocument(f"image {reference!r} cannot be read: {error}") from error

    def _from_file(self, reference: str) -> bytes:
        if not self.limits.allow_files:
            raise InvalidDocument(
                f"image {reference!r} is a local file; they are refused "
                "(ImageLimits(allow_files=True) allows them)"
            )
        try:
            path = Path(reference).resolve()
            if self.limits.folder is not None and not path.is_relative_to(Path(self.limits.folder).resolve()):
                raise InvalidDocument(f"image {reference!r} lies outside {self.limits.folder!r}")
            # A pipe or a device could be read without end.
            if not path.is_file():
                raise InvalidDocument(f"image {reference!r} does not exist, or is no file")
            if path.stat().st_size > self.limits.max_bytes:
                raise InvalidDocument(
                    f"image {reference!r} has {path.stat().st_size} bytes; "
                    f"the limit is {self.limits.max_bytes}"
                )
            return self._bounded(path.read_bytes())
        except (OSError, ValueError) as error:
            if isinstance(error, InvalidDocument):
                raise
            raise InvalidDocument(f"image {reference!r} cannot be read: {error}") from error

    def _from_url(self, reference: str) -> bytes:
        try:
            parts = urlsplit(reference)
            host = parts.hostname or ""
        except ValueError as error:
            raise InvalidDocument(f"image {reference!r} is no URL: {error}") from error
        if parts.scheme not in ("http", "https") or host not in self.limits.allow_urls:
            raise InvalidDocument(
                f"image {reference!r} is remote; only hosts in ImageLimits(allow_urls=...) "
                f"are read, and these are "
                f"{', '.join(self.limits.allow_urls) or 'none'}"
            )
        # Only who allows URLs pays for these imports.
        import urllib.request

        class NoRedirect(urllib.request.HTTPRedirectHandler):
            # The caller allowed this host, not one that it redirects to.
            def redirect_request(self, *args: Any, **kwargs: Any) -> None:
                return None

        opener = urllib.request.build_opener(NoRedirect)
        try:
            with opener.open(reference, timeout=self.limits.timeout_s) as answer:
                kind = answer.headers.get_content_type()
                if not kind.startswith("image/") and kind != "application/octet-stream":
                    raise InvalidDocument(f"image {reference!r} is of type {kind!r}, which is no image")
                encoded = bytearray()
                while chunk := answer.read(_CHUNK_BYTES):
                    encoded += chunk
                    if len(encoded) > self.limits.max_bytes:
                        raise InvalidDocument(
                            f"image {reference!r} has more than {self.limits.max_bytes} bytes, the limit"
                        )
                return bytes(encoded)
        except OSError as error:
            raise InvalidDocument(f"image {reference!r} cannot be read: {error}") from error


def view_of(picture: Any, number: int) -> Any:
    """Return one of four views of a PIL image, of its size: itself, mirrored, its middle, that mirrored."""
    from PIL import Image

    if number >= 2:
        width, height = picture.size
        cut_x, cut_y = width * (1 - MIDDLE) / 2, height * (1 - MIDDLE) / 2
        box = (cut_x, cut_y, width - cut_x, height - cut_y)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else picture
