"""Who may do what: API tokens, their roles and their collections.

A token is 32 random bytes, so a plain SHA-256 of it is as hard to invert as the token is to guess; a slow
hash protects passwords that people choose, and these nobody chooses.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from vstore.errors import InvalidSetting, nearest
from vstore.settings import require
from vstore_server.errors import PermissionRefused, Unauthenticated
from vstore_server.logs import event

Role = Literal["read", "write", "admin"]
ROLES: tuple[Role, ...] = ("read", "write", "admin")
"""Each role may do what those before it may."""

TOKEN_PREFIX = "vst_"
MAX_TOKEN_CHARACTERS = 256
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_LOOPBACK_NAMES = ("localhost", "ip6-localhost")


@dataclass(frozen=True, slots=True)
class Token:
    """One line of the tokens file. `collections` are names, or patterns with `*`.

    Raises:
        InvalidSetting: a part outside its limits.
    """

    name: str
    hash: str
    role: Role
    collections: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        require(
            bool(self.name) and len(self.name) <= 128, f"token name {self.name!r} has 1 to 128 characters"
        )
        require(
            _HASH.fullmatch(self.hash) is not None,
            f"the hash of token {self.name!r} is not 'sha256:' and 64 hex digits; make one with "
            "vstore serve token",
        )
        require(
            self.role in ROLES,
            f"the role of token {self.name!r} is {self.role!r}{nearest(str(self.role), ROLES)} "
            f"(one of {', '.join(ROLES)})",
        )
        require(len(self.collections) > 0, f"token {self.name!r} has no collections; ['*'] is all of them")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, and what the token allows."""

    tenant: str
    role: Role
    collections: tuple[str, ...] = ("*",)

    @property
    def sees_all(self) -> bool:
        """Whether every collection is in scope."""
        return "*" in self.collections

    def sees(self, collection: str) -> bool:
        """Whether a collection is in scope; it need not exist."""
        return self.sees_all or any(fnmatchcase(collection, pattern) for pattern in self.collections)

    def check_role(self, needed: Role, method: str) -> None:
        """Raise PermissionRefused unless the role reaches `needed`."""
        if ROLES.index(self.role) < ROLES.index(needed):
            raise PermissionRefused(f"{method} needs the role {needed}; this token has {self.role}")

    def check_collection(self, collection: str) -> None:
        """Raise PermissionRefused unless the collection is in scope; says nothing of its existence."""
        if not self.sees(collection):
            raise PermissionRefused(f"this token does not reach collection {collection[:128]!r}")


ANYBODY = Caller("anonymous", "admin")
"""Every caller of a server without tokens."""


class Tokens:
    """The tokens that a server knows; none means that it asks for none."""

    def __init__(self, tokens: Sequence[Token] = ()) -> None:
        names = [token.name for token in tokens]
        for name in names:
            require(names.count(name) == 1, f"token name {name!r} comes twice; give each its own")
        self._tokens = tuple(tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def identify(self, authorization: str | None) -> Caller:
        """Return the caller that an `authorization` header names.

        Raises:
            Unauthenticated: it is absent, malformed or unknown; the message does not say which token.
        """
        if not self._tokens:
            return ANYBODY
        if authorization is None:
            raise Unauthenticated("this server needs a token; send it as 'authorization: Bearer <token>'")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not 1 <= len(token) <= MAX_TOKEN_CHARACTERS:
            raise Unauthenticated("the authorization header must be 'Bearer <token>'")
        digest = hash_token(token)
        found: Token | None = None
        # All are compared, so that time does not tell which of them came near.
        for known in self._tokens:
            if hmac.compare_digest(known.hash, digest):
                found = known
        if found is None:
            raise Unauthenticated("the server does not know this token")
        return Caller(found.name, found.role, found.collections)


class TokensFile(Tokens):
    """A tokens file that is read again when it changes. What it becomes unreadable by is logged, not obeyed.

    Args:
        path: the file.
        look_every_s: how long a change may go unseen.
        monotonic: seconds, for the same.

    Raises:
        InvalidSetting: it cannot be read, or an entry is malformed.
    """

    def __init__(
        self,
        path: str | Path,
        look_every_s: float = 1.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = Path(path)
        self._look_every_s = look_every_s
        self._monotonic = monotonic
        self._looked_at_s = monotonic()
        self._seen = self._state()
        super().__init__(load_tokens(self._path)._tokens)

    def identify(self, authorization: str | None) -> Caller:
        """As `Tokens.identify`, by the file as it is now."""
        now_s = self._monotonic()
        if now_s - self._looked_at_s >= self._look_every_s:
            self._looked_at_s = now_s
            self.reload()
        return super().identify(authorization)

    def reload(self) -> None:
        """Read the file if it has changed; where that fails, what was read last stays."""
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._tokens = load_tokens(self._path)._tokens
        except InvalidSetting as error:
            event(logging.ERROR, "tokens not read", error=str(error), kept=len(self._tokens))
        else:
            event(logging.INFO, "tokens read", tokens=len(self._tokens))

    def _state(self) -> tuple[int, ...]:
        try:
            found = os.stat(self._path)
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino


def new_token() -> str:
    """Return a fresh token of 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """Return what a tokens file holds of a token."""
    return "sha256:" + hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def token_entry(name: str, role: Role, collections: Sequence[str], token: str) -> str:
    """Return the lines of a tokens file for a token.

    Raises:
        InvalidSetting: a part outside its limits.
    """
    entry = Token(name, hash_token(token), role, tuple(collections))
    quoted = ", ".join(_toml(item) for item in entry.collections)
    return (
        f"[[tokens]]\nname = {_toml(entry.name)}\nhash = {_toml(entry.hash)}\n"
        f"role = {_toml(entry.role)}\ncollections = [{quoted}]\n"
    )


def load_tokens(path: str | Path) -> Tokens:
    """Read a tokens file (TOML, a list `tokens`).

    Raises:
        InvalidSetting: it cannot be read, or an entry is malformed.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSetting(f"the tokens file cannot be read: {error}") from None
    entries = document.get("tokens")
    if not isinstance(entries, list) or set(document) != {"tokens"} or not entries:
        raise InvalidSetting("a tokens file holds [[tokens]] entries, at least one, and nothing else")
    return Tokens([_token(entry) for entry in entries])


def check_listen(address: str, *, tls: bool, tokens: bool, forced: bool) -> None:
    """Refuse to offer a store to a network unprotected.

    Raises:
        InvalidSetting: the address is no loopback or unix socket, and TLS or tokens are missing.
    """
    if forced or (tls and tokens) or is_local(address):
        return
    lacking = [
        name
        for name, there in (("TLS (--tls-cert, --tls-key)", tls), ("tokens (--tokens)", tokens))
        if not there
    ]
    raise InvalidSetting(
        f"{address} can be reached from other machines and the server has no {' and no '.join(lacking)}; "
        "give them, listen on 127.0.0.1, or force it with --insecure where the network itself is closed"
    )


def is_local(address: str) -> bool:
    """Whether only this machine reaches an address: loopback, or a unix socket."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host.lower() in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token(entry: Any) -> Token:
    known = ("name", "hash", "role", "collections")
    if not isinstance(entry, Mapping):
        raise InvalidSetting("an entry of the tokens file is no table; write [[tokens]]")
    for key in entry:
        require(key in known, f"a token has no {key!r}{nearest(str(key), known)} (it has {', '.join(known)})")
    for key in known[:3]:
        require(isinstance(entry.get(key), str), f"a token needs {key!r}, a string")
    collections = entry.get("collections", ["*"])
    require(
        isinstance(collections, list) and all(isinstance(item, str) for item in collections),
        "a token's collections are a list of names or patterns",
    )
    return Token(entry["name"], entry["hash"], entry["role"], tuple(collections))


def _toml(text: str) -> str:
    escaped = "".join(f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
    return f'"{escaped}"'
