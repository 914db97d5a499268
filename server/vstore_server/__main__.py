"""`python -m vstore_server ./data --listen 127.0.0.1:8765`, and `python -m vstore_server token`."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import importlib
import os
import signal
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import vstore
from vstore.errors import InvalidSetting, VstoreError, nearest
from vstore.storage import open_store
from vstore.storage.wrappers.counting import CountingStore
from vstore_server import logs
from vstore_server.auth import ROLES, Tokens, TokensFile, new_token, token_entry
from vstore_server.certificates import TLSFiles
from vstore_server.codec import Limits
from vstore_server.loops import run
from vstore_server.server import Server
from vstore_server.settings import DEFAULT_LISTEN, ServerSettings
from vstore_server.tracing import Tracing

_ENVIRONMENT = "VSTORE_SERVER_"
_NUMBERS = {
    "search_threads": "n_search_threads",
    "rerank_threads": "n_rerank_threads",
    "write_threads": "n_write_threads",
    "upkeep_threads": "n_upkeep_threads",
    "max_waiting": "max_waiting",
    "refresh_s": "refresh_s",
    "wait_s": "wait_s",
    "drain_s": "drain_s",
    "slow_ms": "slow_ms",
}
_HELP = {
    "search_threads": "threads that search and read (default: one for each core)",
    "rerank_threads": "threads of searches that re-rank (default: 16)",
    "write_threads": "threads that write (default: 4)",
    "upkeep_threads": "threads that flush, compact and warm (default: 2)",
    "max_waiting": "requests that may wait for each of them (default: 256)",
    "refresh_s": "other processes' writes are seen at most this late (default: 1)",
    "wait_s": "how long a read waits for the version that it asks to see (default: 10)",
    "drain_s": "how long SIGTERM lets running requests finish (default: 30)",
    "slow_ms": "requests that take longer are logged (default: 1000)",
}


_FLAGS = {
    "insecure": "allow a public address without TLS and tokens",
    "read_only": "refuse every write",
    "log_requests": "log every request, not the slow and the failed alone",
    "metrics_public": "allow --metrics on a public address; it has neither TLS nor tokens",
    "otel": "make OpenTelemetry spans with the process's tracer provider",
}


def main(arguments: Sequence[str] | None = None, program: str = "python -m vstore_server") -> int:
    """Run the command line and return the exit status: 0 done, 1 a named error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["token"]:
            return _token(given[1:], program)
        options = _options(given, program)
        logs.to_stderr()
        return run(lambda: _serve(options), options.get("loop", "auto"))
    except VstoreError as error:
        print(f"vstore_server: {type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Serve a store. Every option can also stand in the file of --config (TOML, '_' for '-') "
        f"or the environment as {_ENVIRONMENT}<OPTION>; the command line outranks it.",
        epilog=f"{program} token --name NAME --role ROLE makes an API token.",
    )
    parser.add_argument("store", nargs="?", help="a folder, memory://, or s3://bucket/prefix")
    parser.add_argument("--config", help="a TOML file of options, and of [limits]")
    parser.add_argument("--listen", help=f"host:port or unix:path (default: {DEFAULT_LISTEN})")
    parser.add_argument("--tokens", help="the file of API tokens (TOML)")
    parser.add_argument("--tls-cert", help="PEM file of the certificate chain")
    parser.add_argument("--tls-key", help="PEM file of its key")
    parser.add_argument("--tls-client-ca", help="PEM file; clients must show a certificate that it signed")
    parser.add_argument("--metrics", help="host:port of an HTTP port with /metrics, /livez and /readyz")
    for name, text in _FLAGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", default=None, help=text)
    parser.add_argument("--loop", help="auto (uvloop where it is installed; the default), asyncio or uvloop")
    parser.add_argument("--cache-dir", help="a folder for the disk tier of the block cache")
    parser.add_argument("--endpoint-url", help="for s3: the server, where it is not AWS")
    parser.add_argument("--region", help="for s3")
    parser.add_argument(
        "--reranker",
        action="append",
        metavar="NAME=MODULE:OBJECT",
        help="offer a re-ranker to clients under a name; OBJECT is one, or makes one without arguments",
    )
    for name, text in _HELP.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, help=text)
    return parser


def _options(given: Sequence[str], program: str) -> dict[str, Any]:
    parser = _parser(program)
    chosen = {name: value for name, value in vars(parser.parse_args(given)).items() if value is not None}
    names = [action.dest for action in parser._actions if action.dest != "help"]
    options: dict[str, Any] = {}
    config = chosen.pop("config", os.environ.get(f"{_ENVIRONMENT}CONFIG"))
    if config is not None:
        options |= _config_file(config, names)
    for name in names:
        text = os.environ.get(f"{_ENVIRONMENT}{name.upper()}")
        if text is not None and name != "config":
            options[name] = _from_text(name, text)
    options |= chosen
    if "store" not in options:
        parser.error("which store? give a folder, memory:// or s3://bucket/prefix")
    return options


def _config_file(path: str, names: Sequence[str]) -> dict[str, Any]:
    try:
        options = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSetting(f"the config file cannot be read: {error}") from None
    for name in options:
        if name not in (*names, "limits"):
            raise InvalidSetting(f"the config file has no option {name!r}{nearest(name, names)}")
    return options


def _from_text(name: str, text: str) -> Any:
    if name in _NUMBERS:
        try:
            return float(text)
        except ValueError:
            raise InvalidSetting(f"{_ENVIRONMENT}{name.upper()} is {text!r}; it must be a number") from None
    if name in _FLAGS:
        return text.lower() in ("1", "true", "yes")
    return text.split(",") if name == "reranker" else text


def _settings(options: Mapping[str, Any]) -> ServerSettings:
    values: dict[str, Any] = {
        field: int(options[name])
        if field.startswith("n_") or field == "max_waiting"
        else float(options[name])
        for name, field in _NUMBERS.items()
        if name in options
    }
    limits = options.get("limits", {})
    known = [field.name for field in dataclasses.fields(Limits)]
    for name in limits:
        if name not in known:
            raise InvalidSetting(f"[limits] has no {name!r}{nearest(name, known)}")
    listen = options.get("listen", DEFAULT_LISTEN)
    for name in ("insecure", "log_requests", "metrics_public"):
        values[name] = bool(options.get(name, False))
    return ServerSettings(listen=listen, metrics=options.get("metrics"), limits=Limits(**limits), **values)


def _tls(options: Mapping[str, Any]) -> TLSFiles | None:
    certificate, key, ca = (options.get(name) for name in ("tls_cert", "tls_key", "tls_client_ca"))
    if certificate is None and key is None and ca is None:
        return None
    if certificate is None or key is None:
        raise InvalidSetting("TLS needs --tls-cert and --tls-key, both")
    return TLSFiles(certificate, key, ca)


def _rerankers(given: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in given:
        name, _, place = item.partition("=")
        module, _, attribute = place.partition(":")
        if not (name and module and attribute):
            raise InvalidSetting(f"--reranker is {item!r}; write NAME=MODULE:OBJECT")
        try:
            model = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise InvalidSetting(f"--reranker {name}: {error}") from None
        found[name] = model() if isinstance(model, type) else model
    return found


async def _serve(options: Mapping[str, Any]) -> int:
    settings, tls = _settings(options), _tls(options)
    tokens = TokensFile(options["tokens"]) if "tokens" in options else Tokens()
    rerankers = _rerankers(options.get("reranker", ()))
    store_options = {name: options[name] for name in ("endpoint_url", "region") if name in options}
    read_only = bool(options.get("read_only", False))
    tracing = Tracing() if options.get("otel", False) else None
    store = CountingStore(open_store(options["store"], settings=vstore.Settings(), **store_options))
    cache_dir = options.get("cache_dir")
    with vstore.connect(store, read_only=read_only, cache_dir=cache_dir) as database:
        server = Server(database, settings, tokens=tokens, tls=tls, rerankers=rerankers, tracing=tracing)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        if isinstance(tokens, TokensFile):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, tokens.reload)
        address = await server.start()
        settle_memory()
        arguments = "".join([', token="..."' if len(tokens) else "", ", tls=True" if tls is not None else ""])
        print(f"serving {database.url} at {address}", flush=True)
        print(f'call it with vstore.connect("vstore://{address}"{arguments})', flush=True)
        if server.metrics_address is not None:
            print(f"metrics at http://{server.metrics_address}/metrics", flush=True)
        await stop.wait()
        print("draining", flush=True)
        await server.stop()
    return 0


def settle_memory() -> None:
    """Have the collector of cycles pass over what is there now, and look at the rest less often.

    A server makes many short-lived objects and hardly a cycle, beside many that stay: looking at those again
    and again takes a tenth of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _token(given: Sequence[str], program: str) -> int:
    parser = argparse.ArgumentParser(
        prog=f"{program} token",
        description="Make an API token. The token goes to stderr, once; its tokens file entry to stdout.",
    )
    parser.add_argument("--name", required=True, help="who it is for; requests queue under this name")
    parser.add_argument("--role", required=True, choices=ROLES)
    parser.add_argument("--collection", action="append", help="a name, or a pattern with *; default: all")
    options = parser.parse_args(given)
    token = new_token()
    print(token_entry(options.name, options.role, options.collection or ["*"], token), end="")
    print(f"the token of {options.name}, which is stored nowhere: {token}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
