"""Stores in virtual time: how long reads would take and what they would cost, without waiting.

`latency` distributions of the time to the first byte; `model` a store's limits and prices; `presets` S3
Standard, S3 Express, NVMe and LAN with their sources; `clock` the discrete-event clock and the store on it.
"""

from vstore.lab.stores.clock import Clock, SimulatedStore, run_clients
from vstore.lab.stores.latency import Empirical, Fixed, Latency, LogNormal
from vstore.lab.stores.model import StoreModel
from vstore.lab.stores.presets import PRESETS, preset

__all__ = [
    "PRESETS",
    "Clock",
    "Empirical",
    "Fixed",
    "Latency",
    "LogNormal",
    "SimulatedStore",
    "StoreModel",
    "preset",
    "run_clients",
]
