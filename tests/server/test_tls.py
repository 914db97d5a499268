"""TLS and mutual TLS, with certificates made on the fly."""

from __future__ import annotations

import datetime
import ipaddress

import pytest

import vstore
import vstore_server
from vstore import errors
from vstore_server import ClientTLS, ServerTLS, TLSFiles
from vstore_server.auth import hash_token, new_token
from vstore_server.errors import ServerUnavailable, Unauthenticated
from vstore_server.settings import read_pem

x509 = pytest.importorskip("cryptography.x509")
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

DAY = datetime.timedelta(days=1)


def certificate(name, signed_by=None):
    """A key and its certificate, PEM; signed by another pair, or by itself and then an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer_key, issuer = (key, subject) if signed_by is None else (signed_by[0], signed_by[1].subject)
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.BasicConstraints(ca=signed_by is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
            ),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    return key, made


def pem(pair):
    key, made = pair
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM), private


@pytest.fixture(scope="module")
def authority():
    return certificate("authority")


def test_a_token_travels_over_tls(authority):
    ca, (chain, key), token = pem(authority)[0], pem(certificate("server", authority)), new_token()
    tokens = vstore_server.Tokens([vstore_server.Token("t", hash_token(token), "admin")])
    with (
        vstore.connect("memory://") as database,
        vstore_server.BackgroundServer(database, tls=ServerTLS(chain, key), tokens=tokens) as server,
    ):
        with vstore_server.connect(server.url, token=token, tls=ClientTLS(ca=ca)) as remote:
            remote.create_collection("c", dim=2)
            assert remote.collections() == ["c"]
        with pytest.raises(Unauthenticated):
            vstore_server.connect(server.url, token="no", tls=ClientTLS(ca=ca))
        for tls in (False, True, ClientTLS(ca=pem(certificate("other"))[0])):
            with pytest.raises(ServerUnavailable):
                vstore_server.connect(server.url, token=token, tls=tls, n_retries=0)


def test_mutual_tls_asks_for_a_certificate(authority):
    ca, (chain, key) = pem(authority)[0], pem(certificate("server", authority))
    mine, my_key = pem(certificate("client", authority))
    foreign, foreign_key = pem(certificate("client", certificate("other")))
    with (
        vstore.connect("memory://") as database,
        vstore_server.BackgroundServer(database, tls=ServerTLS(chain, key, client_ca=ca)) as server,
    ):
        with vstore_server.connect(server.url, tls=ClientTLS(ca, mine, my_key)) as remote:
            assert remote.collections() == []
        for tls in (ClientTLS(ca), ClientTLS(ca, foreign, foreign_key)):
            with pytest.raises(ServerUnavailable):
                vstore_server.connect(server.url, tls=tls, n_retries=0, timeout_s=5)


def put(folder, pair, *names):
    """Write certificate and key, or one of them, as a renewal does: a new file in the old one's place."""
    for name, data in zip(("cert.pem", "key.pem"), pem(pair), strict=True):
        if not names or name in names:
            (folder / "new").write_bytes(data)
            (folder / "new").replace(folder / name)
    return folder / "cert.pem", folder / "key.pem"


def test_certificates_are_read_again_when_their_files_change(tmp_path, authority):
    """The server stays up, and connections that are there; what cannot be used changes nothing."""
    other = certificate("other authority")
    old, new = (ClientTLS(ca=pem(one)[0]) for one in (authority, other))
    files = TLSFiles(*put(tmp_path, certificate("server", authority)))
    with (
        vstore.connect("memory://") as database,
        vstore_server.BackgroundServer(database, tls=files) as server,
        vstore_server.connect(server.url, tls=old) as first,
    ):

        def reaches(tls):
            try:
                with vstore_server.connect(server.url, tls=tls, n_retries=0) as remote:
                    return remote.collections() == []
            except ServerUnavailable:
                return False

        assert (reaches(old), reaches(new)) == (True, False)
        renewed = certificate("server", other)
        put(tmp_path, renewed, "cert.pem")
        assert (reaches(old), reaches(new)) == (True, False)
        put(tmp_path, renewed, "key.pem")
        assert (reaches(old), reaches(new)) == (False, True)
        assert first.collections() == []
        (tmp_path / "key.pem").write_bytes(b"no")
        assert reaches(new)
        (tmp_path / "key.pem").unlink()
        assert reaches(new)
    with pytest.raises(errors.InvalidSetting, match="--tls-key"):
        TLSFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    put(tmp_path, renewed)
    put(tmp_path, certificate("server", other), "key.pem")
    with pytest.raises(errors.InvalidSetting, match="no certificate with its key"):
        TLSFiles(tmp_path / "cert.pem", tmp_path / "key.pem")


def test_whom_to_trust_is_read_again_too(tmp_path, authority):
    other = certificate("other authority")
    ca = pem(authority)[0]
    mine, theirs = (ClientTLS(ca, *pem(certificate("client", one))) for one in (authority, other))
    (tmp_path / "ca.pem").write_bytes(ca)
    files = TLSFiles(*put(tmp_path, certificate("server", authority)), tmp_path / "ca.pem")
    with (
        vstore.connect("memory://") as database,
        vstore_server.BackgroundServer(database, tls=files) as server,
    ):
        for trusted, refused in ((mine, theirs), (theirs, mine)):
            with vstore_server.connect(server.url, tls=trusted) as remote:
                assert remote.collections() == []
            with pytest.raises(ServerUnavailable):
                vstore_server.connect(server.url, tls=refused, n_retries=0, timeout_s=5)
            (tmp_path / "ca.pem").write_bytes(pem(other)[0])


def test_pem_files(tmp_path, authority):
    path = tmp_path / "x.pem"
    path.write_bytes(pem(authority)[0])
    assert read_pem(path, "--tls-cert") == pem(authority)[0]
    path.write_bytes(b"no")
    for bad in (path, tmp_path / "none.pem"):
        with pytest.raises(errors.InvalidSetting, match="--tls-cert"):
            read_pem(bad, "--tls-cert")
