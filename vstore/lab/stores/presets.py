"""Known stores. Each says where its figures come from; a measurement of one's own beats them all."""

from __future__ import annotations

from typing import Final

from vstore.errors import InvalidSetting
from vstore.lab.stores.latency import Fixed, LogNormal
from vstore.lab.stores.model import StoreModel

S3_STANDARD: Final = StoreModel(
    name="s3_standard",
    latency=LogNormal(30.0, 0.5, straggler_share=0.002),
    bytes_per_s=90e6,
    link_bytes_per_s=1.25e9,
    concurrency=64,
    requests_per_s=5500,
    burst_requests=5500,
    usd_per_1000_requests=0.0004,
    source=(
        "Latency: Durner, Leis & Neumann 2023 (VLDB 16:11) measure some 30 ms for small GETs; AWS's "
        "performance guidelines speak of 100-200 ms, which the tail covers. 85-90 MB/s a connection and "
        "5,500 GET/s a prefix: the same guidelines. A link of 10 Gbit/s. Price: us-east-1, GET, same region."
    ),
)
S3_EXPRESS: Final = StoreModel(
    name="s3_express",
    latency=LogNormal(5.0, 0.3),
    bytes_per_s=90e6,
    link_bytes_per_s=1.25e9,
    concurrency=64,
    requests_per_s=200_000,
    burst_requests=200_000,
    usd_per_1000_requests=0.00003,
    usd_per_gb=0.0006,
    source=(
        "AWS documentation of S3 Express One Zone: single-digit milliseconds to the first byte, 200,000 "
        "reads/s a directory bucket; S3 FAQ: $0.00003 per 1,000 GETs, $0.0006 per GB retrieved."
    ),
)
NVME: Final = StoreModel(
    name="nvme",
    latency=LogNormal(0.09, 0.15),
    bytes_per_s=3e9,
    link_bytes_per_s=3e9,
    concurrency=128,
    requests_per_s=600_000,
    burst_requests=1024,
    source=(
        "Order of data-centre TLC drives' data sheets: 80-100 us for 4 KiB at low depth, 3 GB/s and more, "
        "600,000 random reads/s and more."
    ),
)
LAN: Final = StoreModel(
    name="lan",
    latency=LogNormal(1.0, 0.3),
    bytes_per_s=1.1e9,
    link_bytes_per_s=1.1e9,
    concurrency=64,
    source="An object server one switch away on 10 Gbit/s Ethernet, NVMe behind it: assumed.",
)
FREE: Final = StoreModel(
    name="free", latency=Fixed(0.0), concurrency=1024, source="No time at all: to count only."
)

PRESETS: Final[dict[str, StoreModel]] = {
    store.name: store for store in (S3_STANDARD, S3_EXPRESS, NVME, LAN, FREE)
}
"""Every shipped store model by name."""


def preset(name: str) -> StoreModel:
    """Return a shipped store model.

    Raises:
        InvalidSetting: no such name.
    """
    if name not in PRESETS:
        raise InvalidSetting(
            f"store {name!r} is none of {', '.join(PRESETS)}; name one, or describe your own"
        )
    return PRESETS[name]
