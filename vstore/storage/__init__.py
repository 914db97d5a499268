"""Where the bytes are: the ObjectStore protocol, memory, folder and S3 stores, and one-job wrappers."""

from vstore.storage.base import ByteRange, ObjectInfo, ObjectStore
from vstore.storage.local import LocalStore
from vstore.storage.memory import MemoryStore
from vstore.storage.open import open_store

# S3Store stays in vstore.storage.s3: importing it imports boto3.
__all__ = ["ByteRange", "LocalStore", "MemoryStore", "ObjectInfo", "ObjectStore", "open_store"]
