"""Who may do what: tokens, roles, scopes, and addresses that are too open."""

from __future__ import annotations

import numpy as np
import pytest
from raw_call import raw

import vstore
import vstore_server
from vstore import errors
from vstore_server.auth import check_listen, hash_token, is_local, new_token, token_entry
from vstore_server.codec import encode
from vstore_server.errors import PermissionRefused, Unauthenticated
from vstore_server.service import METHODS

X = np.random.default_rng(5).standard_normal((100, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def guarded():
    secret = {name: new_token() for name in ("reader", "writer", "admin", "scoped")}
    tokens = vstore_server.Tokens(
        [
            vstore_server.Token("reader", hash_token(secret["reader"]), "read"),
            vstore_server.Token("writer", hash_token(secret["writer"]), "write"),
            vstore_server.Token("admin", hash_token(secret["admin"]), "admin"),
            vstore_server.Token("scoped", hash_token(secret["scoped"]), "admin", ("mine-*",)),
        ]
    )
    with vstore.connect("memory://") as database:
        for name in ("mine-a", "theirs"):
            database.create_collection(name, dim=4, metric="l2").upsert(range(100), X)
        with vstore_server.BackgroundServer(database, tokens=tokens) as server:
            yield server, secret


def test_tokens_are_asked_for(guarded):
    server, secret = guarded
    for token in (None, "vst_wrong", secret["reader"][:-1], secret["reader"] + "x"):
        with pytest.raises(Unauthenticated) as caught:
            vstore_server.connect(server.url, token=token)
        assert not token or token not in str(caught.value)
    for method in METHODS:
        if METHODS[method].kind == "unary":
            assert raw(server, method, b"\x80")[0] == "UNAUTHENTICATED"
            bad = (("authorization", "Basic abc"),)
            assert raw(server, method, b"\x80", bad)[0] == "UNAUTHENTICATED"


def test_roles_hold(guarded):
    server, secret = guarded
    reader = vstore_server.connect(server.url, token=secret["reader"])
    held = reader.collection("theirs")
    assert held.count() == 100
    assert len(held.search(X[0])) == 10
    writer = vstore_server.connect(server.url, token=secret["writer"]).collection("theirs")
    assert writer.upsert([1], X[:1]) == 1
    refused = [
        lambda: held.upsert([1], X[:1]),
        lambda: list(held.upsert_stream([([1], X[:1])])),
        lambda: held.delete([1]),
        held.flush,
        held.compact,
        lambda: reader.create_collection("x", dim=2),
        lambda: reader.drop_collection("theirs"),
        writer.compact,
    ]
    for call in refused:
        with pytest.raises(PermissionRefused, match="needs the role"):
            call()


def test_scopes_hold(guarded):
    server, secret = guarded
    scoped = vstore_server.connect(server.url, token=secret["scoped"])
    assert scoped.collections() == ["mine-a"]
    assert scoped.collection("mine-a").count() == 100
    for call in (
        lambda: scoped.collection("theirs"),
        lambda: scoped.collection("nothing"),
        lambda: scoped.drop_collection("theirs"),
        lambda: scoped.create_collection("theirs2", dim=2),
    ):
        with pytest.raises(PermissionRefused, match="does not reach"):
            call()
    with pytest.raises(errors.CollectionNotFound) as caught:
        scoped.collection("mine-theirs")
    assert "did you mean" not in str(caught.value)
    metadata = (("authorization", f"Bearer {secret['scoped']}"),)
    for method in METHODS:
        if METHODS[method].kind == "unary" and method not in ("Connect", "ListCollections"):
            for field in ("collection", "name"):
                message = {field: "theirs", "query": X[0], "queries": X, "vectors": X, "dim": 3}
                answer = raw(server, method, encode(message), metadata)
                assert answer[0] in ("PERMISSION_DENIED", "INVALID_ARGUMENT"), (method, answer)


def test_public_addresses_need_tls_and_tokens():
    assert is_local("127.0.0.1:1")
    assert is_local("[::1]:1")
    assert is_local("localhost:1")
    assert is_local("unix:/run/x")
    for address in ("0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1"):
        assert not is_local(address)
        for tls, tokens in ((False, False), (True, False), (False, True)):
            with pytest.raises(errors.InvalidSetting, match="other machines"):
                check_listen(address, tls=tls, tokens=tokens, forced=False)
        check_listen(address, tls=True, tokens=True, forced=False)
        check_listen(address, tls=False, tokens=False, forced=True)
    with pytest.raises(errors.InvalidSetting, match="in clear"):
        vstore_server.connect("vstore://10.0.0.1:1", token="t")


def test_tokens_files(tmp_path):
    path, token = tmp_path / "tokens.toml", new_token()
    path.write_text(token_entry('a "b"\n', "write", ["x*"], token))
    caller = vstore_server.load_tokens(path).identify(f"Bearer {token}")
    assert (caller.tenant, caller.role, caller.collections) == ('a "b"\n', "write", ("x*",))
    assert token not in path.read_text()
    for bad in ("", "x = 1", "[[tokens]]\nname='a'", "[[tokens]]\nname='a'\nhash='x'\nrole='read'", "["):
        path.write_text(bad)
        with pytest.raises(errors.InvalidSetting):
            vstore_server.load_tokens(path)
