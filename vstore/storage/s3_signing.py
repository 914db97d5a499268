"""Signs what reads ask for: by the signature alone where the address is plain, else by boto3's client."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlencode, urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import NoCredentialsError
from botocore.utils import percent_encode

from vstore.storage.s3_client import S3Access

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

URL_LIFE_S = 3600
"""How long a URL is valid: also by a clock that is a quarter of an hour wrong, as S3 tolerates."""

_V4_QUERY: Final = "s3v4-query"
_RESIGNS_V4: Final = frozenset({"s3-query", "v4-query", _V4_QUERY})
_HOST_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_PLAIN_REGION: Final = re.compile(r"(af|ap|ca|cn|eu|il|me|mx|sa|us)-(?!iso|gov)[a-z]+-[0-9]{1,2}")
_ODD_SETTINGS: Final = ("s3", "use_dualstack_endpoint", "use_fips_endpoint")
_ODD_PROFILE: Final = frozenset({"s3", "services", "endpoint_url"})
_ODD_ENVIRONMENT: Final = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


class Signer(Protocol):
    """Makes URLs that may be asked for by a plain GET. Thread-safe."""

    def object_url(self, name: str) -> str:
        """Return the URL of an object's bytes.

        Args:
            name: the object's whole name in the bucket.

        Raises: as boto3 does without credentials.
        """
        ...

    def list_url(self, params: Mapping[str, str]) -> str | None:
        """Return the URL of a page of a listing (ListObjectsV2's parameters); None: boto3 is to list."""
        ...


class PlainSigner:
    """Signs by SigV4's query parameters, without a client: nothing of S3's description is read.

    Args:
        access: whose credentials and region.
        base: scheme, host and path of the bucket, as `plain_base` returns it.
    """

    def __init__(self, access: S3Access, base: str) -> None:
        self._access, self._base = access, base

    def object_url(self, name: str) -> str:
        """Return the URL of an object's bytes; see Signer."""
        return self._signed(f"{self._base}/{percent_encode(name, safe='/~')}")

    def list_url(self, params: Mapping[str, str]) -> str:
        """Return the URL of a page of a listing; see Signer."""
        root = "" if urlsplit(self._base).path else "/"
        return self._signed(f"{self._base}{root}?{urlencode({'list-type': '2', **params})}")

    def _signed(self, url: str) -> str:
        credentials, region = self._access.credentials(), self._access.region
        if credentials is None or region is None:
            raise NoCredentialsError()
        request: Any = AWSRequest(method="GET", url=url)
        S3SigV4QueryAuth(credentials, "s3", region, expires=URL_LIFE_S).add_auth(request)
        signed: str = request.url
        return signed


class ClientSigner:
    """Signs by boto3's client, which knows every kind of address.

    Args:
        access: whose client.
        bucket: the bucket's name.
    """

    def __init__(self, access: S3Access, bucket: str) -> None:
        self._access, self._bucket = access, bucket
        self._lock = threading.Lock()
        self._is_prepared = False

    def object_url(self, name: str) -> str:
        """Return the URL of an object's bytes; see Signer."""
        client = self._access.client
        with self._lock:
            if not self._is_prepared:
                sign_as_get_object(client)
                self._is_prepared = True
        return client.generate_presigned_url(
            "get_object", Params={"Bucket": self._bucket, "Key": name}, ExpiresIn=URL_LIFE_S
        )

    def list_url(self, params: Mapping[str, str]) -> None:
        """Return None: boto3 lists."""
        return


def signer_for(access: S3Access, bucket: str) -> Signer:
    """Return the cheapest signer that is sure of the bucket's address."""
    base = plain_base(access, bucket)
    return ClientSigner(access, bucket) if base is None else PlainSigner(access, base)


def plain_base(access: S3Access, bucket: str) -> str | None:
    """Return the address of the bucket where nothing but the options decides it; None: boto3 must say.

    Whatever the environment or the profile says of S3 (accelerated, dual stack, FIPS, another endpoint or
    signature) is left to boto3, and so are regions other than AWS's public ones.
    """
    options = access.options
    if any(access.configured(name) for name in _ODD_SETTINGS) or _ODD_PROFILE & set(access.profile()):
        return None
    is_label = _HOST_LABEL.fullmatch(bucket) is not None
    style = options.addressing_style
    if options.endpoint_url is not None:
        url = options.endpoint_url.rstrip("/")
        if ".amazonaws.com" in url or "?" in url or style == "virtual":
            return None
        return f"{url}/{percent_encode(bucket)}"
    region = access.region
    if any(os.environ.get(name) for name in _ODD_ENVIRONMENT):
        return None
    if region is None or not is_label or _PLAIN_REGION.fullmatch(region) is None:
        return None
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    host = f"s3.{domain}" if region == "us-east-1" else f"s3.{region}.{domain}"
    return f"https://{host}/{bucket}" if style == "path" else f"https://{bucket}.{host}"


def can_presign(bucket: str) -> bool:
    """Whether GETs of the bucket may be presigned for some minutes: not of ARNs and directory buckets."""
    return not bucket.startswith("arn:") and not bucket.endswith("--x-s3")


def sign_as_get_object(client: S3Client) -> None:
    """Make the client presign with Signature Version 4 and for the endpoint that get_object itself asks.

    By default boto3 presigns with Version 2 in old regions, and for the global endpoint, which redirects.
    """

    def choose_version(signature_version: Any, **rest: Any) -> str | None:
        return _V4_QUERY if signature_version in _RESIGNS_V4 else None

    def choose_endpoint(context: dict[str, Any], **rest: Any) -> None:
        if context.get("is_presign_request"):
            context["use_global_endpoint"] = False

    events: Any = client.meta.events
    events.register_first("choose-signer.s3.GetObject", choose_version, unique_id="vstore-presign-version")
    events.register(
        "before-parameter-build.s3.GetObject", choose_endpoint, unique_id="vstore-presign-endpoint"
    )
