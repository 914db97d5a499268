"""Stores around stores: each does one thing, and they compose."""

from vstore.storage.wrappers.counting import CountingStore, StoreCounters
from vstore.storage.wrappers.faults import Fault, FaultStore, seeded_faults
from vstore.storage.wrappers.forward import ForwardingStore
from vstore.storage.wrappers.latency import LatencyStore, StoreLatency
from vstore.storage.wrappers.retry import RetryStore

__all__ = [
    "CountingStore",
    "Fault",
    "FaultStore",
    "ForwardingStore",
    "LatencyStore",
    "RetryStore",
    "StoreCounters",
    "StoreLatency",
    "seeded_faults",
]
