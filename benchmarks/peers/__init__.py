"""The peers by name; an adapter's own imports happen when it builds."""

from __future__ import annotations

import importlib

from .base import EF_CONSTRUCTION, M, Param, Passing, Peer

PEERS: dict[str, tuple[str, str]] = {
    "vstore": ("own", "Vstore"),
    "hnswlib": ("graphs", "Hnswlib"),
    "symphonyqg": ("graphs", "SymphonyQG"),
    "rabitq-hnsw8": ("graphs", "RabitqHnsw"),
    "glass-sq8": ("graphs", "Glass"),
    "svs-vamana": ("graphs", "ScalableVS"),
    "usearch": ("graphs", "Usearch"),
    "usearch-int8": ("graphs", "UsearchInt8"),
    "pynndescent": ("graphs", "PyNNDescent"),
    "faiss-hnsw": ("faiss_peers", "FaissHnsw"),
    "faiss-hnsw-sq8": ("faiss_peers", "FaissHnswSq8Refine"),
    "faiss-ivf": ("faiss_peers", "FaissIvf"),
    "zvec-fp32": ("stores", "Zvec"),
    "zvec-int8": ("stores", "ZvecInt8"),
    "qdrant": ("stores", "QdrantEdge"),
    "qdrant-int8": ("stores", "QdrantEdgeInt8"),
    "qdrant-acorn": ("stores", "QdrantEdgeAcorn"),
    "lancedb": ("stores", "LanceDB"),
    "numpy-exact": ("graphs", "NumpyExact"),
}
QUICK = ("vstore", "hnswlib", "symphonyqg", "glass-sq8", "faiss-hnsw-sq8", "faiss-ivf", "numpy-exact")


def peer_class(name: str) -> type[Peer]:
    """Return a peer's adapter.

    Raises:
        ValueError: no such peer.
    """
    if name not in PEERS:
        raise ValueError(f"peer {name!r} is none of {', '.join(PEERS)}")
    module, attribute = PEERS[name]
    found: type[Peer] = getattr(importlib.import_module(f".{module}", __name__), attribute)
    return found


__all__ = ["EF_CONSTRUCTION", "PEERS", "QUICK", "M", "Param", "Passing", "Peer", "peer_class"]
