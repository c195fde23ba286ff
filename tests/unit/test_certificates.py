"""Which certificate a site has, what is wrong with one, and the certificates of a stack's own authority."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import ssl
from typing import TYPE_CHECKING, Any

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from cluster.config import parse_config
from cluster.config.models import AUTHORITY, SECRET_KEYS, ClusterConfig, dump
from cluster.source import source_of
from cluster.stack.secrets import read_secrets
from cluster.tls.authority import root_of, show_authority, signed
from cluster.tls.certificates import CertificateError, certificate_of, ending, half_year, named, names_of
from cluster.tls.files import uncovered, unended
from platforms.docker.delivery import delivered_files
from tests.certificates import authority, made_certificates

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

NOW = dt.datetime(2026, 11, 27, tzinfo=dt.UTC)
NEXT = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
FILES = made_certificates(NOW)
AN_AUTHORITY = authority()


def stack(names: tuple[str, ...] = ("cluster", "localhost"), **tls: Any) -> ClusterConfig:
    return parse_config(
        {
            "platform": "local",
            "app": {"project": "./example", "settings": "example.settings"},
            "upstream": {"servers": 2},
            "site": {"server_names": list(names), "tls": tls} if tls else {"server_names": list(names)},
        }
    )


def by_files(certificate: str, key: str, names: tuple[str, ...] = ("cluster", "localhost")) -> ClusterConfig:
    return stack(names, files={"certificate": certificate, "key": key})


def refusal(config: ClusterConfig, root: Path = FILES, now: dt.datetime = NOW) -> str:
    with pytest.raises(CertificateError) as caught:
        certificate_of(config, root, "", now)
    return str(caught.value)


# --- files


def test_a_plain_site_has_none() -> None:
    assert named(stack(), FILES, NOW) is None
    assert certificate_of(stack(), FILES, "", NOW) is None


def test_files_are_taken_as_they_are_and_told_apart_without_the_key() -> None:
    config = by_files("ours.pem", "ours.key")
    found, known = certificate_of(config, FILES, "", NOW), named(config, FILES, NOW)
    assert found is not None
    assert known is not None
    assert found.chain == (FILES / "ours.pem").read_text()
    assert found.key == (FILES / "ours.key").read_text()
    assert (known.label, known.key) == (found.label, "")
    assert found.key not in repr(found)
    other = named(by_files("other.pem", "ours.key"), FILES, NOW)
    assert other is not None
    assert other.label != found.label
    assert ending(FILES, config.site.tls.files) == dt.datetime(2027, 6, 30, tzinfo=dt.UTC)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        ("none.pem", "ours.key", "site.tls.files.certificate: none.pem: No such file or directory"),
        ("ours.pem", "none.key", "site.tls.files.key: none.key: No such file or directory"),
        ("ours.key", "ours.key", "site.tls.files.certificate: ours.key: holds no certificate in PEM"),
        ("ours.pem", "ours.pem", "site.tls.files.key: ours.pem: holds no private key in PEM"),
        ("ours.pem", "other.key", "site.tls.files.key: other.key: is not the key of ours.pem"),
        ("ours.pem", "locked.key", "site.tls.files.key: locked.key: has a passphrase, which nginx can't ask for"),
        ("ours.pem", "binary.key", "site.tls.files.key: binary.key: not PEM, which is text"),
        ("ours.pem", "ed25519.key", "site.tls.files.key: ed25519.key: must be an RSA key or one of an elliptic curve"),
        ("mixed.pem", "ours.key", "CN=cluster is not signed by CN=cluster, which comes after it"),
    ],
)
def test_what_nginx_or_a_browser_would_refuse_is_said(certificate: str, key: str, words: str) -> None:
    (FILES / "binary.key").write_bytes(b"\xff\x00")
    (FILES / "mixed.pem").write_text((FILES / "ours.pem").read_text() + (FILES / "other.pem").read_text())
    ours = serialization.load_pem_private_key((FILES / "ours.key").read_bytes(), None)
    write_key("ed25519.key", ed25519.Ed25519PrivateKey.generate(), serialization.NoEncryption())
    write_key("locked.key", ours, serialization.BestAvailableEncryption(b"hunter2"))
    found = refusal(by_files(certificate, key))
    assert words in found
    assert "BEGIN" not in found


def write_key(name: str, key: PrivateKeyTypes, how: serialization.KeySerializationEncryption) -> None:
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    (FILES / name).write_bytes(text)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (rsa.generate_private_key(65537, 1024), "has 1024 bits; an RSA key must have 2048 at least"),
        (ec.generate_private_key(ec.SECP256K1()), "is of secp256k1, which no browser takes"),
    ],
    ids=["short", "curve"],
)
def test_a_key_that_openssl_or_browsers_refuse_is_said(key: PrivateKeyTypes, words: str) -> None:
    write_key("weak.key", key, serialization.NoEncryption())
    assert words in refusal(by_files("ours.pem", "weak.key"))


def test_a_certificate_that_was_hurt_anywhere_is_said_and_is_no_crash() -> None:
    """Every byte of one changed in turn: what is refused is refused in one line."""
    whole = x509.load_pem_x509_certificate((FILES / "ours.pem").read_bytes()).public_bytes(serialization.Encoding.DER)
    refused = 0
    for at in range(len(whole)):
        text = base64.encodebytes(whole[:at] + bytes([whole[at] ^ 0x11]) + whole[at + 1 :]).decode()
        (FILES / "hurt.pem").write_text(f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n")
        config = by_files("hurt.pem", "ours.key")
        try:
            certificate_of(config, FILES, "", NOW)
        except CertificateError as error:
            refused += "\n" not in str(error)
        with contextlib.suppress(CertificateError):
            ending(FILES, config.site.tls.files)  # type: ignore[union-attr,arg-type]
    assert refused > 100


def test_files_without_a_last_newline_are_delivered_as_two(tmp_path: Path) -> None:
    for name in ("ours.pem", "ours.key"):
        (tmp_path / name).write_text((FILES / name).read_text().rstrip("\n"))
    found = certificate_of(by_files("ours.pem", "ours.key"), tmp_path, "", NOW)
    assert found is not None
    lines = delivered_files({"certificate.key": found.key, "certificate.pem": found.chain}).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["# file certificate.key", "# file certificate.pem"]


def test_no_release_gets_the_key_of_a_site_whatever_names_it(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "tls").mkdir(parents=True)
    (project / "manage.py").touch()
    for name in ("site.pem", "site.key"):
        (project / "tls" / name).write_text("x")
    (project / "a-link").symlink_to("tls/site.key")
    (project / "tls" / "beside").touch()
    values = dump(by_files("project/tls/site.pem", "project/tls/site.key"))
    values["app"] |= {"project": "./project", "include": ["tls"]}
    found = source_of(parse_config(values), tmp_path).listing
    assert {entry.target for entry in found.entries} >= {"manage.py", "tls/beside"}
    assert not {"a-link", "tls/site.key", "tls/site.pem"} & {entry.target for entry in found.entries}


def test_a_chain_of_more_than_one_is_taken() -> None:
    (FILES / "chain.pem").write_text((FILES / "ours.pem").read_text() + (FILES / "authority.pem").read_text())
    found = certificate_of(by_files("chain.pem", "ours.key"), FILES, "", NOW)
    assert found is not None
    assert len(x509.load_pem_x509_certificates(found.chain.encode())) == 2


def test_a_chain_that_ends_before_who_is_known_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(name: str) -> str | None:
        return unended(FILES / f"{name}.pem", FILES / "ours.key")

    assert (end("alone"), end("direct")) == ("CN=site, signed by CN=between", "CN=site, signed by CN=root")
    assert (end("whole"), end("ours")) == (None, None), "its last one says nothing of who signed it"
    monkeypatch.setattr(certifi, "where", lambda: str(FILES / "root.pem"))
    assert (end("alone"), end("direct")) == ("CN=site, signed by CN=between", None)


def test_a_name_that_it_does_not_cover_is_said() -> None:
    config = by_files("ours.pem", "ours.key", ("cluster", "a.example.org", "127.0.0.1"))
    assert refusal(config).endswith("does not cover a.example.org, 127.0.0.1, which are names of the site")
    assert certificate_of(by_files("ours.pem", "ours.key", ("_",)), FILES, "", NOW)


def test_one_that_has_ended_or_has_not_begun_is_said() -> None:
    config = by_files("ours.pem", "ours.key")
    assert "CN=cluster has ended on 2027-06-30" in refusal(config, now=dt.datetime(2028, 1, 1, tzinfo=dt.UTC))
    assert "CN=cluster begins on 2026-06-30 only" in refusal(config, now=dt.datetime(2025, 1, 1, tzinfo=dt.UTC))


# --- a stack's own authority

MANY = ("example.org", "*.example.org", ".sub.example.org", "127.0.0.1", "LOCALHOST")


def test_its_certificate_is_the_same_each_time_and_another_for_other_names_times_and_authorities() -> None:
    config = stack(MANY, self_signed=True)
    first, again = (certificate_of(config, FILES, AN_AUTHORITY, NOW) for _ in range(2))
    assert first is not None
    assert (first, first.key) == (again, again.key if again else "")
    others = {
        signed(AN_AUTHORITY, names_of(config), NEXT),
        signed(AN_AUTHORITY, ["example.org"], half_year(NOW)),
        signed(authority("other"), names_of(config), half_year(NOW)),
    }
    assert (first.chain, first.key) not in others
    assert len({key for _chain, key in others}) == 3
    later = named(config, FILES, NEXT)
    assert later is not None
    assert later.label != first.label


def test_it_covers_all_names_and_lasts_no_longer_than_browsers_allow() -> None:
    config = stack(MANY, self_signed=True)
    found = certificate_of(config, FILES, AN_AUTHORITY, NOW)
    assert found is not None
    (leaf,) = x509.load_pem_x509_certificates(found.chain.encode())
    assert uncovered(leaf, [*names_of(config), "a.example.org", "a.sub.example.org"]) == []
    assert uncovered(leaf, ["a.b.example.org", "10.0.0.1", "other"]) == ["a.b.example.org", "10.0.0.1", "other"]
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= dt.timedelta(days=365)
    # The first moment of a half year, and the last.
    for moment in (half_year(NOW), NEXT - dt.timedelta(seconds=1)):
        assert leaf.not_valid_before_utc < moment < leaf.not_valid_after_utc - dt.timedelta(days=179)


@pytest.mark.parametrize("name", ["example.org", "other.org"])
def test_openssl_believes_it_by_the_authority_and_for_its_names(tmp_path: Path, name: str) -> None:
    chain, key = signed(AN_AUTHORITY, ["example.org"], half_year(dt.datetime.now(dt.UTC)))
    (tmp_path / "site.pem").write_text(chain + key)
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    there.load_cert_chain(tmp_path / "site.pem")
    here = ssl.create_default_context(cadata=root_of(AN_AUTHORITY))
    here.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = there.wrap_bio(up, down, server_side=True)
    client = here.wrap_bio(down, up, server_hostname=name)
    if name == "other.org":
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            shake(client, server)
    else:
        shake(client, server)
        assert client.version() == "TLSv1.3"


def shake(client: ssl.SSLObject, server: ssl.SSLObject) -> None:
    for _ in range(4):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()


def test_what_is_shown_of_it_holds_no_key(tmp_path: Path) -> None:
    path = tmp_path / "q" / "authority.pem"
    show_authority(path, AN_AUTHORITY)
    assert "PRIVATE" in AN_AUTHORITY
    assert "PRIVATE" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o644
    before = path.stat().st_mtime_ns
    show_authority(path, AN_AUTHORITY)
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("text", ["", "x", (FILES / "ours.key").read_text()], ids=["empty", "no PEM", "a key alone"])
def test_one_that_was_hurt_is_said(text: str) -> None:
    with pytest.raises(CertificateError, match=r"^tls_authority: ") as caught:
        certificate_of(stack(self_signed=True), FILES, text, NOW)
    assert "BEGIN" not in str(caught.value)


def test_no_release_is_given_it(tmp_path: Path) -> None:
    (tmp_path / AUTHORITY).touch(0o600)
    (tmp_path / AUTHORITY).write_text(AN_AUTHORITY)
    assert read_secrets(tmp_path) == {}
    assert AUTHORITY not in SECRET_KEYS
    values = {**dump(stack(self_signed=True)), AUTHORITY: AN_AUTHORITY}
    config = parse_config(values)
    assert AUTHORITY not in dump(config)
    assert "PRIVATE" not in repr(config)
