"""Image references and their limits."""

from __future__ import annotations

import http.server
import io
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vstore.errors import InvalidDocument, InvalidSetting
from vstore.rerank.images import ImageLimits, ImageReader

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")


def png(width: int = 4, height: int = 3, color: Any = "red", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), color).save(buffer, format="PNG")
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/image")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if self.path == "/page" else "image/png")
        self.end_headers()
        self.wfile.write(b"x" * 100_000 if self.path == "/large" else png())

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_bytes_files_and_pil_images_are_the_same_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    reader = ImageReader(read_store={"a": png()}.__getitem__)
    for image in (
        png(),
        bytearray(png()),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.new("RGB", (4, 3), "red"),
        "store://a",
    ):
        assert reader.open(image).size == (4, 3)
        decoded = reader.decode(image)
        assert (decoded.mode, decoded.getpixel((1, 1))) == ("RGB", (255, 0, 0))


def test_transparency_lies_on_white_and_palettes_are_colours() -> None:
    reader = ImageReader()
    assert reader.decode(png(color=(255, 0, 0, 0), mode="RGBA")).getpixel((0, 0)) == (255, 255, 255)
    assert reader.decode(png(color=128, mode="L")).getpixel((0, 0)) == (128, 128, 128)


def test_opening_decodes_nothing() -> None:
    reader = ImageReader()
    damaged = png(64, 64)[:-30]
    assert reader.open(damaged).size == (64, 64)
    with pytest.raises(InvalidDocument, match="damaged"):
        reader.decode(damaged)


@pytest.mark.parametrize(
    ("limits", "image", "message"),
    [
        ({"max_bytes": 20}, png(), "bytes; the limit is 20"),
        ({"max_pixels": 11}, png(), "4 x 3 pixels; the limit is 11"),
        ({"max_pixels": 11}, Image.new("RGB", (4, 3)), "4 x 3 pixels"),
        ({}, bomb(60_000, 60_000), "bomb|pixels; the limit"),
        ({}, bomb(12_000, 12_000), "144000000|12000 x 12000 pixels"),
        ({"formats": ("JPEG",)}, png(), "cannot be read.*JPEG"),
        ({}, b"", "cannot be read"),
        ({}, b"<svg/>", "cannot be read"),
        ({}, "missing.png", "does not exist"),
        ({}, "/dev/zero", "no file"),
        ({}, "a\x00b", "cannot be read|does not exist"),
        ({"allow_files": False}, "a.png", "local file; they are refused"),
        ({}, "https://example.org/a.png", "remote"),
        ({}, "file:///etc/hosts", "remote"),
        ({"allow_urls": ("example.org",)}, "https://example.org@evil.test/a.png", "remote"),
        ({}, "store://a", "was given no store"),
        ({}, 3, "int"),
    ],
)
def test_what_is_refused_says_why(limits: dict[str, Any], image: Any, message: str) -> None:
    with pytest.raises(InvalidDocument, match=message):
        ImageReader(ImageLimits(**limits)).open(image)


def test_a_folder_holds_what_may_be_read(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "a.png").write_bytes(png())
    (outside / "b.png").write_bytes(png())
    (inside / "link.png").symlink_to(outside / "b.png")
    reader = ImageReader(ImageLimits(folder=str(inside)))
    assert reader.open(inside / "a.png").size == (4, 3)
    for path in (outside / "b.png", inside / ".." / "out" / "b.png", inside / "link.png"):
        with pytest.raises(InvalidDocument, match="outside"):
            reader.open(path)


def test_urls_of_allowed_hosts_alone(url: str) -> None:
    reader = ImageReader(ImageLimits(allow_urls=("127.0.0.1",), max_bytes=1000))
    assert reader.open(f"{url}/image").size == (4, 3)
    for path, message in (("/page", "text/html"), ("/large", "more than 1000 bytes"), ("/moved", "302")):
        with pytest.raises(InvalidDocument, match=message):
            reader.open(url + path)


@pytest.mark.parametrize(
    "settings", [{"max_bytes": 0}, {"max_pixels": 0}, {"timeout_s": 0}, {"allow_urls": "example.org"}]
)
def test_image_limits_have_limits(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting):
        ImageLimits(**settings)
