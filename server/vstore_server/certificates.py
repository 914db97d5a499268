"""TLS for a server: certificates as given, or in files that are read again when they change."""

from __future__ import annotations

import logging
import os
import ssl
import threading
from pathlib import Path
from typing import Any

import grpc

from vstore.errors import InvalidSetting
from vstore_server.logs import event
from vstore_server.settings import ServerTLS, read_pem


class TLSFiles:
    """PEM files of a server's certificate chain and key, and of what it trusts. Thread-safe.

    They are looked at before every handshake; what cannot be used is logged, and what was read before stays.

    Args:
        certificate, key: the files.
        client_ca: with it, clients must show a certificate that it signed.

    Raises:
        InvalidSetting: a file cannot be read, or certificate and key are not of one another.
    """

    def __init__(self, certificate: str | Path, key: str | Path, client_ca: str | Path | None = None) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._lock = threading.Lock()
        self._seen = self._state()
        self._tls = self._read()

    @property
    def tls(self) -> ServerTLS:
        """What was read last."""
        return self._tls

    def changed(self) -> ServerTLS | None:
        """Read the files if they have changed; return what they hold, or None where that is as before."""
        with self._lock:
            state = self._state()
            if state == self._seen:
                return None
            try:
                read = self._read()
            except InvalidSetting as error:
                # Seen all the same: it is logged once, and one file replaced before the other changes again.
                self._seen = state
                event(logging.ERROR, "certificates not read", error=str(error))
                return None
            self._seen = state
            if read == self._tls:
                return None
            self._tls = read
            event(logging.INFO, "certificates read")
            return read

    def _read(self) -> ServerTLS:
        ca = None if self._client_ca is None else read_pem(self._client_ca, "--tls-client-ca")
        tls = ServerTLS(read_pem(self._certificate, "--tls-cert"), read_pem(self._key, "--tls-key"), ca)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                self._certificate, self._key, password=_no_password
            )
        except (ssl.SSLError, OSError, ValueError) as error:
            raise InvalidSetting(
                f"--tls-cert and --tls-key are no certificate with its key, without a password: {error}"
            ) from None
        return tls

    def _state(self) -> tuple[tuple[int, ...], ...]:
        files = (self._certificate, self._key, self._client_ca)
        return tuple(_state_of(path) for path in files if path is not None)


def credentials(tls: ServerTLS | TLSFiles) -> Any:
    """Return gRPC's credentials; those of files ask them at every handshake."""
    given = tls.tls if isinstance(tls, TLSFiles) else tls
    mutual = given.client_ca is not None
    if not isinstance(tls, TLSFiles):
        pair = (given.key, given.certificate)
        return grpc.ssl_server_credentials([pair], given.client_ca, require_client_auth=mutual)
    files = tls

    def fetch() -> Any:
        found = files.changed()
        return None if found is None else _configuration(found)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given), fetch, require_client_authentication=mutual
    )


def _configuration(tls: ServerTLS) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(tls.key, tls.certificate)], root_certificates=tls.client_ca
    )


def _no_password() -> str:
    raise ValueError("the key has a password")


def _state_of(path: str | Path) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino
