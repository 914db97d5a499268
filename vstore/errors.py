"""Every exception that vstore raises on purpose, as one tree.

    VstoreError
    ├── InvalidInput (ValueError)
    │   ├── DimensionMismatch      a vector or query of the wrong length
    │   ├── InvalidVector          NaN, infinity, or a zero vector under cosine
    │   ├── InvalidId              a wrong kind of id, or one out of range
    │   │   └── DuplicateId        the same id twice in one call
    │   ├── InvalidDocument        a document that is neither text nor {"text", "image"}
    │   └── InvalidSetting         a setting or argument outside its limits
    ├── FieldError (ValueError)
    │   ├── UnknownField           a field that the collection does not have
    │   └── FieldTypeError         a value that its field cannot hold
    ├── FilterError (ValueError)
    │   └── UnknownOperator        an operator that the filter language does not have
    ├── CollectionExists (ValueError)
    ├── CollectionNotFound (KeyError)
    ├── SnapshotNotFound (KeyError)   no such version or tag, or nothing kept from that time
    ├── StorageError (OSError)
    │   ├── ObjectNotFound         the key has no object
    │   ├── ObjectExists           a create-only put lost: the key has an object already
    │   ├── AccessDenied           the store refused the credentials or the permission
    │   ├── BucketNotFound         the bucket (or folder) does not exist
    │   ├── CommitConflict         another commit of the same manifest version came first
    │   ├── NotAStore              the place holds something that is no vstore store
    │   ├── StoreFull              no space left
    │   └── StoreUnavailable       the store did not answer, or answered 5xx, after all retries
    ├── FormatError (ValueError)
    │   ├── CorruptData            a checksum, magic or bound that does not hold
    │   └── UnsupportedVersion     bytes of a newer format, or with an unknown flag
    ├── QueryStopped (RuntimeError)     a search that its limits ended; partial=True gives what it had
    │   ├── QueryTimeout           it took longer than its deadline
    │   ├── QueryCancelled         the caller gave it up
    │   └── QueryLimitExceeded     it would have read more than it may
    ├── WriterFenced (RuntimeError)     another writer has taken the collection over
    ├── StaleRead (TimeoutError)        a reader did not see a version token in time
    ├── ReadOnly (RuntimeError)         a write through a handle that only reads
    ├── Closed (RuntimeError)           the handle was closed
    ├── MissingDependency (ImportError) an optional extra is needed
    └── RerankError (RuntimeError)      a re-ranker broke its contract or failed

A message says the value, the limit and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable


class VstoreError(Exception):
    """The root of every error that vstore raises on purpose."""


class InvalidInput(VstoreError, ValueError):
    """An argument that the call cannot accept; nothing was written."""


class DimensionMismatch(InvalidInput):
    """A vector or query whose length is not the collection's."""


class InvalidVector(InvalidInput):
    """A vector with NaN or infinite components, or a zero vector under cosine."""


class InvalidId(InvalidInput):
    """An id of the wrong kind or out of range."""


class DuplicateId(InvalidId):
    """The same id twice in one call."""


class InvalidDocument(InvalidInput):
    """A document that is neither text nor a mapping of text and image."""


class InvalidSetting(InvalidInput):
    """A setting or argument outside its limits."""


class FieldError(VstoreError, ValueError):
    """Something is wrong with a named field."""


class UnknownField(FieldError):
    """A field that the collection does not have."""


class FieldTypeError(FieldError):
    """A value that its field cannot hold, or a field type that does not exist."""


class FilterError(VstoreError, ValueError):
    """A filter that cannot be parsed or typed."""


class UnknownOperator(FilterError):
    """An operator that the filter language does not have."""


class CollectionExists(VstoreError, ValueError):
    """A collection of that name exists already."""


class CollectionNotFound(VstoreError, KeyError):
    """No collection of that name exists."""

    # KeyError prints the repr of its argument, which would quote the whole message.
    __str__ = Exception.__str__


class SnapshotNotFound(VstoreError, KeyError):
    """A version, tag or time of which a collection keeps nothing."""

    __str__ = Exception.__str__


class StorageError(VstoreError, OSError):
    """The object store failed, or refused."""


class ObjectNotFound(StorageError):
    """The key has no object."""


class ObjectExists(StorageError):
    """A create-only put lost: the key already has an object."""


class CommitConflict(StorageError):
    """Another commit of the same manifest version came first."""


class AccessDenied(StorageError):
    """The store refused the credentials or the permission."""


class BucketNotFound(StorageError):
    """The bucket or folder does not exist."""


class NotAStore(StorageError):
    """The place holds something that is no vstore store."""


class StoreFull(StorageError):
    """No space is left on the store."""


class StoreUnavailable(StorageError):
    """The store did not answer, or answered with a server error, after all retries."""


class FormatError(VstoreError, ValueError):
    """Bytes that are not what the format says they are."""


class CorruptData(FormatError):
    """A checksum, magic or bound that does not hold; names object, offset and reason."""


class UnsupportedVersion(FormatError):
    """Bytes of a newer format version, or with a flag this version does not know."""


class QueryStopped(VstoreError, RuntimeError):
    """A search that its limits ended before it had an answer."""


class QueryTimeout(QueryStopped):
    """A search that took longer than its deadline."""


class QueryCancelled(QueryStopped):
    """A search that the caller gave up."""


class QueryLimitExceeded(QueryStopped):
    """A search that would have read more than it may."""


class WriterFenced(VstoreError, RuntimeError):
    """Another writer has taken the collection over; reopen it to write again."""


class StaleRead(VstoreError, TimeoutError):
    """A reader did not see the version that a token stands for in time."""


class ReadOnly(VstoreError, RuntimeError):
    """A write through a handle that only reads."""


class Closed(VstoreError, RuntimeError):
    """The handle was closed."""


class MissingDependency(VstoreError, ImportError):
    """An optional extra is needed; the message says which pip command installs it."""


class RerankError(VstoreError, RuntimeError):
    """A re-ranker broke its contract or failed."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the known name nearest to `name`, or ""."""
    import difflib

    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
