"""An ACME authority over real TLS that believes everything, and answers as oddly as it is told to."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import http.server
import itertools
import json
import ssl
import threading
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from cluster.acme.kept import new_key
from cluster.tls.authority import root_of, signed
from tests.certificates import authority

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    #: Writes an answer of its own.
    Twist = Callable[["Answer"], None]

NOW = dt.datetime.now(dt.UTC)


def certificate_to(public_key: Any, names: list[str], begins: dt.datetime, ends: dt.datetime) -> str:
    """Return a certificate by a name and a key that are gone at once, PEM."""
    key: Any = serialization.load_pem_private_key(new_key().encode(), None)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Strange authority")]))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier(b"\1" * 20, None, None), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


class Answer(http.server.BaseHTTPRequestHandler):
    """One question, and what is said to it."""

    protocol_version = "HTTP/1.1"
    authority: StrangeAuthority
    body: bytes = b""

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""

    def payload(self) -> dict[str, Any]:
        """Return what was asked, unproven."""
        found = json.loads(self.body)["payload"]
        text = base64.urlsafe_b64decode(found + "=" * (-len(found) % 4))
        payload: dict[str, Any] = json.loads(text) if text else {}
        return payload

    def give(self, body: bytes | str | object, status: int = 200, **headers: str) -> None:
        """Answer; what is neither text nor bytes as JSON."""
        kind = "application/problem+json" if status >= 400 else "application/json"
        if not isinstance(body, bytes | str):
            body = json.dumps(body)
        content = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        told = {"Content-Type": kind, "Content-Length": str(len(content)), "Replay-Nonce": next(self.authority.nonces)}
        for name, value in {**told, **{name.replace("_", "-"): value for name, value in headers.items()}}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self) -> None:
        """Say what is to be said at this path."""
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.authority.asked.append(self.path)
        where = f"/{self.path.split('/')[1]}"
        twist = self.authority.twists.get(where) or getattr(self.authority, where[1:])
        with contextlib.suppress(OSError):
            twist(self)

    do_HEAD = do_POST = do_GET  # noqa: N815 - as http.server asks for them


class StrangeAuthority:
    """It listens at `url`; `ca` is who signs for it. `twists`: by its paths, what answers instead."""

    def __init__(self, directory: Path) -> None:
        self.ca, held = directory / "ca.pem", directory / "strange.pem"
        self.ca.write_text(root_of(authority("strange")))
        held.write_text("".join(signed(authority("strange"), ["localhost"], NOW)))
        self.nonces = (f"nonce{number:07}" for number in itertools.count())
        self.asked: list[str] = []
        self.twists: dict[str, Twist] = {}
        self.names: list[str] = []
        self.public_key: Any = None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(held)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Answer,), {"authority": self}))
        self.server.daemon_threads = True
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        """Listen no more."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def at(self, path: str) -> str:
        return f"https://localhost:{self.server.server_port}{path}"

    @property
    def url(self) -> str:
        return self.at("/dir")

    def pairs(self) -> dict[str, str]:
        paths = {"newNonce": "/nonce", "newAccount": "/account", "newOrder": "/order", "revokeCert": "/revoke"}
        return {**{name: self.at(path) for name, path in paths.items()}, "renewalInfo": self.at("/renewal")}

    def dir(self, answer: Answer) -> None:
        answer.give(self.pairs())

    def nonce(self, answer: Answer) -> None:
        answer.give(b"")

    def account(self, answer: Answer) -> None:
        answer.give({"status": "valid"}, 201, Location=self.at("/account/1"))

    def order(self, answer: Answer) -> None:
        self.names = [one["value"] for one in answer.payload()["identifiers"]]
        answer.give(self.order_of("ready"), 201, Location=self.at("/state"))

    def order_of(self, status: str, **more: object) -> dict[str, object]:
        identifiers = [{"type": "dns", "value": name} for name in self.names]
        places = {"authorizations": [self.at("/authorization")], "finalize": self.at("/finalize")}
        return {"status": status, "identifiers": identifiers, **places, **more}

    def authorization(self, answer: Answer) -> None:
        identifier = {"type": "dns", "value": self.names[0]}
        answer.give({"status": "valid", "identifier": identifier, "challenges": []})

    def finalize(self, answer: Answer) -> None:
        text = answer.payload()["csr"]
        request = x509.load_der_x509_csr(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        self.public_key = request.public_key()
        answer.give(self.order_of("processing"))

    def state(self, answer: Answer) -> None:
        answer.give(self.order_of("valid", certificate=self.at("/certificate")))

    def certificate(self, answer: Answer) -> None:
        answer.give(self.issued())

    def issued(self, *, begins: int = 0, ends: int = 90, names: list[str] | None = None) -> str:
        """Return a certificate as it was asked for, from and to days from now on."""
        days = [NOW + dt.timedelta(days=one, hours=-1) for one in (begins, ends)]
        return certificate_to(self.public_key, names or self.names, days[0], days[1])

    def renewal(self, answer: Answer) -> None:
        start = NOW + dt.timedelta(days=60)
        window = {"start": start.isoformat(), "end": (start + dt.timedelta(days=1)).isoformat()}
        answer.give({"suggestedWindow": window}, Retry_After="21600")
