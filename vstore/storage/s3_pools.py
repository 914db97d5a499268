"""Pooled connections as botocore would open them: its proxies, its certificates, none of its requests."""

from __future__ import annotations

import os
import socket
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import botocore.session
import urllib3
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

SOCKET_OPTIONS: Final[list[tuple[int, int, int | bytes]]] = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
]


def proxy_for(url: str) -> str | None:
    """Return the proxy of the environment for the URL, as botocore takes it (HTTPS_PROXY, NO_PROXY, ...)."""
    proxy: str | None = get_environ_proxies(url).get(urlsplit(url).scheme)
    if not proxy or proxy.startswith(("http:", "https:")):
        return proxy or None
    return f"http:{proxy}" if proxy.startswith("//") else f"http://{proxy}"


def ca_bundle() -> str:
    """Return the file of trusted certificates, as botocore takes it: AWS_CA_BUNDLE, ca_bundle, certifi's."""
    verify: Any = botocore.session.Session().get_config_variable("ca_bundle")
    verify = verify or os.environ.get("REQUESTS_CA_BUNDLE") or True
    return str(get_cert_path(verify))


def make_pools(
    scheme: str,
    proxy: str | None,
    *,
    n_connections: int,
    connect_timeout_s: float,
    read_timeout_s: float,
) -> urllib3.PoolManager:
    """Return pools of connections, verified where there is TLS, through the proxy where there is one."""
    options: dict[str, Any] = {
        "maxsize": n_connections,
        "timeout": urllib3.Timeout(connect=connect_timeout_s, read=read_timeout_s),
        "socket_options": SOCKET_OPTIONS,
    }
    if scheme == "https" or (proxy is not None and proxy.startswith("https:")):
        options |= {"cert_reqs": "CERT_REQUIRED", "ca_certs": ca_bundle()}
    if proxy is None:
        return urllib3.PoolManager(**options)
    parts = urlsplit(proxy)
    if parts.username and parts.password:
        login = f"{unquote(parts.username)}:{unquote(parts.password)}"
        options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=login)
    return urllib3.ProxyManager(proxy, **options)
