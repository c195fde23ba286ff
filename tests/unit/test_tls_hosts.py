"""Certificates by which hosts know each other: the same from the same secret, and nobody else's."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cluster.tls.certificates import RELAY
from cluster.tls.hosts import HostCertificate, certificate_of_host
from cluster.tls.hosts_keys import new_hosts_key

if TYPE_CHECKING:
    from pathlib import Path

SECRET, OTHER = "5e" * 32, "07" * 32


def made(secret: str = SECRET, host: str = "web1", stack: str = "shop") -> HostCertificate:
    certificate_of_host.cache_clear()
    return certificate_of_host(secret, stack, host)


def test_the_same_secret_makes_the_same_bytes() -> None:
    assert made() == made()
    assert made().key == made().key


def test_all_hosts_of_a_stack_have_one_authority_and_keys_of_their_own() -> None:
    hosts = [made(host=name) for name in ("web1", "web2", "edge", "authority", "relay")]
    assert len({one.authority for one in hosts}) == 1
    keys = {one.key for one in hosts}
    assert len(keys) == len({one.certificate for one in hosts}) == len(hosts)
    loaded = [load_pem_private_key(key.encode(), None).public_key() for key in keys]
    assert x509.load_pem_x509_certificate(hosts[0].authority.encode()).public_key() not in loaded


def test_another_secret_makes_all_else() -> None:
    one, other = made(), made(OTHER)
    assert (one.authority, one.certificate, one.key) != (other.authority, other.certificate, other.key)
    for name in ("authority", "certificate", "key"):
        assert getattr(one, name) != getattr(other, name)


def test_secrets_are_not_made_twice_and_are_secrets() -> None:
    made_now = {new_hosts_key() for _ in range(100)}
    assert len(made_now) == 100
    assert made(made_now.pop()).key


@pytest.mark.parametrize("bad", ["", "5e", "5e" * 31, "5e" * 33, "zz" * 32, "5e" * 31 + "5", "é" * 64])
def test_what_is_no_secret_is_refused_without_repeating_it(bad: str) -> None:
    with pytest.raises(ValueError, match=r"^must be 64 hexadecimal digits$"):
        made(bad)


def test_a_key_is_not_shown_by_chance() -> None:
    assert "PRIVATE KEY" not in repr(made())


@pytest.mark.parametrize("host", ["web1", "relay", "a", "a" * 32, "x-9"])
def test_its_names_are_that_of_all_and_its_own(host: str) -> None:
    found = made(host=host, stack="s" * 100)
    authority = x509.load_pem_x509_certificate(found.authority.encode())
    certificate = x509.load_pem_x509_certificate(found.certificate.encode())
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(names.get_values_for_type(x509.DNSName)) == {RELAY, host}
    with pytest.raises(InvalidSignature):
        certificate.verify_directly_issued_by(
            x509.load_pem_x509_certificate(made(OTHER, stack="s" * 100).authority.encode())
        )


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_openssl_accepts_it_by_all_its_rules(tmp_path: Path, purpose: str) -> None:
    for number, found in enumerate((made(), made(OTHER))):
        (tmp_path / f"authority{number}").write_text(found.authority)
        (tmp_path / f"certificate{number}").write_text(found.certificate)
    verify = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-verify_hostname", RELAY]
    for number in (0, 1):
        command = [*verify, "-CAfile", str(tmp_path / "authority0"), str(tmp_path / f"certificate{number}")]
        assert subprocess.run(command, capture_output=True, check=False).returncode == (0 if number == 0 else 2)


def shaken(tmp_path: Path, server: HostCertificate, client: HostCertificate | None, believed: HostCertificate) -> str:
    """Return what a client reads from a server, both as strict as Python's ssl can be."""
    sides = []
    for name, side, own in (("server", ssl.Purpose.CLIENT_AUTH, server), ("client", ssl.Purpose.SERVER_AUTH, client)):
        context = ssl.create_default_context(side, cadata=(server if name == "server" else believed).authority)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        if own is not None:
            path = tmp_path / f"{name}.pem"
            path.write_text(own.certificate + own.key)
            context.load_cert_chain(path)
        sides.append(context)

    here, there = socket.socketpair()

    def serve() -> None:
        try:
            with sides[0].wrap_socket(there, server_side=True) as secured:
                secured.sendall(b"hello")
        except OSError:
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with sides[1].wrap_socket(here, server_hostname=RELAY) as secured:
            return secured.recv(5).decode()
    except OSError as error:
        return type(error).__name__
    finally:
        here.close()
        thread.join(10)


def test_two_hosts_believe_each_other_and_nobody_else(tmp_path: Path) -> None:
    web, edge, stranger = made(host="web1"), made(host="edge"), made(OTHER, "edge")
    assert shaken(tmp_path, web, edge, edge) == "hello"
    assert shaken(tmp_path, web, stranger, edge) != "hello"
    assert shaken(tmp_path, web, None, edge) != "hello"
    assert shaken(tmp_path, stranger, edge, edge) == "SSLCertVerificationError"
