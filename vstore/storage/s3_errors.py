"""What botocore raises, as errors that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoAuthTokenError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ResponseStreamingError,
    SSOError,
    TokenRetrievalError,
)
from urllib3.exceptions import HTTPError

from vstore.errors import (
    AccessDenied,
    BucketNotFound,
    FormatError,
    InvalidSetting,
    ObjectNotFound,
    StorageError,
    StoreFull,
    StoreUnavailable,
    VstoreError,
)

S3_ERRORS = (BotoCoreError, ClientError, HTTPError)
"""All that a call through boto3, or the reading of its body, raises."""

_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    NoAuthTokenError,
    SSOError,
)
_CONNECTION = (
    ConnectionError,
    HTTPClientError,
    ResponseStreamingError,
    IncompleteReadError,
    FlexibleChecksumError,
    HTTPError,
)
_DENIED = {
    "AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken",
    "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed", "InvalidSecurity", "AccountProblem",
}  # fmt: skip
_FULL = {"InsufficientStorage", "XMinioStorageFull", "QuotaExceeded", "InsufficientCapacity"}
_BUSY = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "OperationAborted"}
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}

CREDENTIALS_REMEDY = (
    "pass access_key_id= and secret_access_key=, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "AWS_PROFILE, or a role"
)


def status_of(error: BaseException) -> int:
    """Return the HTTP status of the answer, 0 where there was none."""
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: BaseException) -> str:
    """Return the S3 error code of the answer, "" where there was none."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_transient(error: BaseException) -> bool:
    """Whether the request may have been lost, answered or not: asking again makes sense."""
    if isinstance(error, ClientError):
        if code_of(error) in _FULL or status_of(error) in (501, 507):
            return False
        return status_of(error) >= 500 or status_of(error) in (408, 429) or code_of(error) in _BUSY
    return isinstance(error, _CONNECTION)


def store_error(error: Exception, where: str, what: str) -> VstoreError:
    """Return the error of vstore's tree for one of S3_ERRORS.

    Args:
        error: what was raised.
        where: the store's URL and endpoint, for the message.
        what: what was asked, as "read 'a/b'".
    """
    code, status = code_of(error), status_of(error)
    lead = f"{where}: cannot {what}"
    reason = f"{lead} ({error})"
    if isinstance(error, _NO_CREDENTIALS):
        return AccessDenied(f"{lead}: no usable credentials ({error}); {CREDENTIALS_REMEDY}")
    if isinstance(error, ParamValidationError):
        return InvalidSetting(f"{reason}; check the bucket's name")
    if is_transient(error):
        return StoreUnavailable(
            f"{reason}; check that the endpoint is right and the server runs, then try again"
        )
    if code == "NoSuchBucket":
        return BucketNotFound(
            f"{lead}: there is no such bucket; create it, or check its name and the endpoint"
        )
    if code == "RequestTimeTooSkewed":
        return AccessDenied(f"{reason}; set this machine's clock")
    if code in _ELSEWHERE or status == 301:
        return StorageError(f"{reason}; the bucket is in another region: pass region=")
    if code in _DENIED or status in (401, 403):
        return AccessDenied(
            f"{reason}; check the credentials ({CREDENTIALS_REMEDY}), and that they allow s3:ListBucket, "
            "s3:GetObject, s3:PutObject and s3:DeleteObject here"
        )
    if code in _FULL or status == 507:
        return StoreFull(f"{reason}; free some space or quota, then do it again")
    if code == "NoSuchKey":
        return ObjectNotFound(f"{lead}: there is no such object")
    return StorageError(reason)


@contextlib.contextmanager
def translated(where: str, what: str) -> Iterator[None]:
    """Turn what boto3 raises inside into vstore's errors; theirs pass through."""
    try:
        yield
    except (StorageError, FormatError):
        raise
    except S3_ERRORS as error:
        raise store_error(error, where, what) from error
