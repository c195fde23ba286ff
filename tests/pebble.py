"""Pebble, a small ACME authority for tests: it asks each name at this machine, and refuses nonces now and then.

Debian's knows nothing of when to renew (RFC 9773). A later one, built from its source, lies in `.cache/pebble` of the
repository; `python -m tests.pebble` builds it where Go is.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from cluster.tls.authority import root_of, signed
from tests.certificates import authority
from tests.local.stand import free_port

#: The part of nonces that it refuses, in percent: its own default.
REFUSED_NONCES = 5


#: Debian has it in a package of this name.
needs_pebble = pytest.mark.skipif(shutil.which("pebble") is None, reason="pebble is not installed")

#: The one that is built; Go's checksum database says what its source is.
LATER = "github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.3"
LATER_HERE = Path(__file__).resolve().parent.parent / ".cache" / "pebble" / LATER.rpartition("@")[2] / "pebble"

#: Seconds that its building may take.
BUILDING = 120

needs_later_pebble = pytest.mark.skipif(
    not LATER_HERE.exists(), reason=f"{LATER} is not here; `python -m tests.pebble` builds it where Go is"
)


class Pebble:
    """An authority that asks by the plain port `asked`, and is reached as `host`.

    bound: keys by their ids, base64url; it then takes no account that none of them binds. at: the address of all names.
    later: the one that knows when to renew.
    """

    def __init__(
        self,
        asked: int,
        *,
        host: str = "localhost",
        seconds: int = 90 * 86400,
        bound: dict[str, str] | None = None,
        at: str = "127.0.0.1",
        later: bool = False,
    ) -> None:
        self.host = host
        self.directory = Path(tempfile.mkdtemp(prefix="pebble"))
        self.ca = self.directory / "ca.pem"
        chain, key = signed(authority("pebble"), ["localhost", *({host} - {"localhost"})], dt.datetime.now(dt.UTC))
        for name, text in (("ca.pem", root_of(authority("pebble"))), ("cert.pem", chain), ("key.pem", key)):
            (self.directory / name).write_text(text)
        first = free_port(consecutive=20) + 16  # the stand has the first, and listens there later
        self.port, self.management, self.dns = first, first + 1, first + 2
        config = {
            "listenAddress": f"0.0.0.0:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management}",
            "certificate": str(self.directory / "cert.pem"),
            "privateKey": str(self.directory / "key.pem"),
            "httpPort": asked,
            "tlsPort": first + 3,
            "certificateValidityPeriod": seconds,  # a later one asks its profile
            "profiles": {"default": {"description": "", "validityPeriod": seconds}},
            "externalAccountBindingRequired": bound is not None,
            "externalAccountMACKeys": bound or {},
        }
        (self.directory / "pebble.json").write_text(json.dumps({"pebble": config}))
        self.log = (self.directory / "log").open("wb")
        names = ["-dns01", f"127.0.0.1:{self.dns}", "-defaultIPv4", at, "-defaultIPv6", "", "-management", ""]
        off = ["-http01", "", "-https01", "", "-tlsalpn01", ""]
        program = str(LATER_HERE) if later else "pebble"
        environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": str(REFUSED_NONCES)}
        self.processes = [
            subprocess.Popen(words, stdout=self.log, stderr=subprocess.STDOUT, env=environment)
            for words in (
                ["pebble-challtestsrv", *names, *off],
                [program, "-config", str(self.directory / "pebble.json"), "-dnsserver", f"127.0.0.1:{self.dns}"],
            )
        ]
        self._await()

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}/dir"

    def root(self) -> str:
        """Return what those who believe its certificates trust, PEM."""
        return self._ask(self.management, "/roots/0").decode()

    def suggest(self, certificate: str, answer: str) -> None:
        """Let it say so where it is asked when to renew a certificate, PEM, in place of its own answer."""
        told = json.dumps({"Certificate": certificate, "ARIResponse": answer}).encode()
        self._ask(self.management, "/set-renewal-info/", told)

    def _ask(self, port: int, path: str, body: bytes | None = None) -> bytes:
        trusted = ssl.create_default_context(cafile=str(self.ca))
        with urllib.request.urlopen(f"https://localhost:{port}{path}", body, context=trusted, timeout=5) as answer:
            found: bytes = answer.read()
            return found

    def _resolve(self) -> None:
        """Ask for the address of a name; OSError where nobody answers."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(1)
            client.connect(("127.0.0.1", self.dns))
            client.send(bytes.fromhex("00010100000100000000000004746573740000010001"))  # `test`, type A (RFC 1035, 4.1)
            client.recv(512)

    def _await(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                self.root()
                # It answers there before it does where it is asked for certificates, and names are another program's.
                socket.create_connection(("127.0.0.1", self.port), 5).close()
                self._resolve()
                return
            assert time.monotonic() < deadline, self.said()
            assert self.processes[1].poll() is None, self.said()
            time.sleep(0.05)

    def said(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def issued(self) -> int:
        """Return how many certificates it has given."""
        return self.said().count("Issued certificate serial")

    def questions(self) -> int:
        """Return how often it was asked when to renew."""
        return self.said().count("/renewalInfo/ -> calling handler()")

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.log.close()
        shutil.rmtree(self.directory)


def shown(port: int, name: str, address: str = "127.0.0.1") -> bytes:
    """Return the certificate that a server shows, DER."""
    anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anything.check_hostname = False
    anything.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((address, port), timeout=10) as plain,
        anything.wrap_socket(plain, server_hostname=name) as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""


def build() -> str:
    """Build the later one, where that was not done; return what came of it."""
    if LATER_HERE.exists():
        return "here"
    go = shutil.which("go", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/local/go/bin")
    if go is None:
        return "not here: Go is not installed"
    with tempfile.TemporaryDirectory(prefix="pebble-build") as name:
        directory = Path(name)
        places = {"GOPATH": directory / "go", "GOCACHE": directory / "cache", "GOBIN": directory / "bin"}
        environment = {**os.environ, **{key: str(place) for key, place in places.items()}, "GOFLAGS": "-modcacherw"}
        try:
            subprocess.run(
                [go, "install", LATER], env=environment, check=True, capture_output=True, text=True, timeout=BUILDING
            )
        except subprocess.CalledProcessError as error:
            return f"not here: {(error.stderr.strip().splitlines() or [str(error)])[-1]}"
        except subprocess.TimeoutExpired:
            return f"not here: it was not built within {BUILDING} s"
        LATER_HERE.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(directory / "bin" / "pebble", LATER_HERE)
    return "built"


if __name__ == "__main__":
    print(f"{LATER}: {build()}")
    sys.exit(0 if LATER_HERE.exists() else 1)
