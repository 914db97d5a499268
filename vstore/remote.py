"""The way from `vstore.connect("vstore://...")` to the client, which another package holds.

vstore_server imports vstore, never the reverse; so the client is looked up by name when it is asked for.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from vstore.errors import MissingDependency

SCHEME = "vstore://"
PACKAGE = "vstore_server"


def server_module(name: str = "") -> ModuleType:
    """Return vstore_server, or a module of it.

    Raises:
        MissingDependency: grpcio is not installed.
    """
    try:
        return importlib.import_module(f"{PACKAGE}.{name}" if name else PACKAGE)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in ("grpc", PACKAGE):
            raise
        raise MissingDependency(
            f"{SCHEME} and vstore serve need {error.name}; run: pip install 'vstore[server]'"
        ) from error
