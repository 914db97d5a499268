"""Run by .ci/run with the Python of an empty environment into which a wheel or sdist was installed.

The installed package must store and search, and must not have come from this checkout.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import tempfile
from pathlib import Path


def main() -> None:
    checkout = Path(__file__).resolve().parent.parent
    # Python puts the script's own folder first, which would find the tests' modules.
    sys.path = [
        entry for entry in sys.path if checkout not in [Path(entry).resolve(), *Path(entry).resolve().parents]
    ]
    import numpy as np

    import vstore
    import vstore_kernels

    # Found, not imported: the server needs its extra.
    server = importlib.util.find_spec("vstore_server")
    assert server is not None, "the installation lacks vstore_server"
    for name, file in (
        ("vstore", vstore.__file__),
        ("vstore_kernels", vstore_kernels.__file__),
        ("vstore_server", server.origin),
    ):
        place = Path(str(file)).resolve()
        assert checkout not in place.parents, f"{name} was imported from the checkout: {place}"
    if importlib.util.find_spec("grpc") is not None:
        importlib.import_module("vstore_server")
    for name in ("kernels", "server"):
        assert importlib.util.find_spec(name) is None, f"the installation has a top-level package {name!r}"
    vectors = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        collection = vstore.connect(folder).create_collection("rows", dim=16, fields={"odd": "bool"})
        collection.upsert(list(range(300)), vectors, {"odd": [i % 2 == 1 for i in range(300)]})
        collection.flush()
        hits = vstore.connect(folder).collection("rows").search(vectors[7], k=3, filter={"odd": True})
        assert hits.ids[0] == 7, hits.ids
        assert len(hits) == 3
    print(f"vstore {vstore.__version__} from {Path(str(vstore.__file__)).parent.parent}: stores and searches")


if __name__ == "__main__":
    main()
