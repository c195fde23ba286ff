"""Checks of https with real handshakes: the certificate, its names and its end, versions, and the way there."""

from __future__ import annotations

import datetime as dt
import http.client
import ssl
import urllib.parse
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.acme.kept import LATE_PART
from cluster.asking import TIMEOUT
from cluster.checks import Check
from cluster.endpoints import Endpoint
from cluster.render.headers import STRICT, hsts_value
from cluster.tls import quic
from cluster.tls.certificates import FEW_DAYS, names_of
from cluster.topology import site_host, site_origin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cluster.config.site import Tls
    from cluster.topology import Topology

#: A name that is no site's (RFC 2606).
STRANGE = "cluster-verify.invalid"

#: Versions of TLS that nobody should speak any more (RFC 8996).
OLD = (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1)
NEW = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}

#: What a server's refusal of a version is called by OpenSSL.
REFUSED = ("PROTOCOL_VERSION", "HANDSHAKE_FAILURE")


def context(trusted: str | None = None) -> ssl.SSLContext:
    """Return what believes any certificate; with `trusted`, those by this authority (PEM), or "" by this machine's."""
    if trusted is not None:
        return ssl.create_default_context(cadata=trusted or None)
    anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anything.check_hostname = False
    anything.verify_mode = ssl.CERT_NONE
    return anything


#: How whoever is before nginx begins where it says nothing of a client (the PROXY protocol, version 1).
UNKNOWN_CLIENT = b"PROXY UNKNOWN\r\n"


class Connection(http.client.HTTPConnection):
    """Asks a site, whatever its address is; over TLS by `name`, without where there is none.

    proxied: by the PROXY protocol, as the one that is before nginx.
    """

    def __init__(self, there: Endpoint, name: str | None, *, proxied: bool) -> None:
        super().__init__(there.host or "localhost", there.port or None, timeout=TIMEOUT)
        self.there, self.name, self.proxied = there, name, proxied

    def connect(self) -> None:
        """Connect, and shake hands where that is wanted."""
        self.sock = self.there.connected(TIMEOUT)
        if self.proxied:
            self.sock.sendall(UNKNOWN_CLIENT)
        if self.name is not None:
            self.sock = context().wrap_socket(self.sock, server_hostname=self.name)


@dataclass(frozen=True, kw_only=True)
class Https:
    """https of one site. authority: what signs its certificate, PEM; empty: public ones.

    host: where it is asked. ways: other ways to its ports, by these.
    """

    topology: Topology
    tls: Tls
    host: str
    authority: str
    ways: Mapping[int, Endpoint] = field(default_factory=dict)

    @property
    def there(self) -> Endpoint:
        """Where https answers."""
        return self._at(self.tls.listen)

    def _at(self, port: int) -> Endpoint:
        return self.ways.get(port) or Endpoint(host=self.host, port=port)

    @property
    def name(self) -> str:
        """The site's own name."""
        return site_host(self.topology.config)

    def shake(self, by: ssl.SSLContext, name: str) -> ssl.SSLSocket:
        """Shake hands by a name; OSError where that is refused."""
        plain = self.there.connected(TIMEOUT)
        try:
            if self.topology.config.site.proxy_protocol:
                plain.sendall(UNKNOWN_CLIENT)
            return by.wrap_socket(plain, server_hostname=name)
        except OSError:
            plain.close()
            raise

    def checks(self) -> Iterator[Check]:
        """Check everything."""
        yield self._believed()
        yield self._certificate()
        yield from self._versions()
        if self.tls.http3:
            yield self._datagrams()
        yield self._stranger()
        yield from self._plain()
        wanted = hsts_value(self.topology.config.site)
        if wanted is not None:
            yield self._strict(wanted)

    def _believed(self) -> Check:
        name = "the certificate is one that clients believe"
        expected = "signed by the stack's own authority" if self.authority else "signed by an authority known here"
        try:
            self.shake(context(self.authority), self.name).close()
        except ssl.SSLCertVerificationError as error:
            # A public authority, or a company's own, may be known to the site's visitors and not to this machine.
            unknown = not self.authority and "unable to get" in error.verify_message
            signed_itself = "self-signed" in error.verify_message and not self.authority
            # One by ACME that signs itself is the placeholder of a site that has none yet.
            ok = None if unknown or (signed_itself and self.tls.acme is None) else False
            return Check(name=name, ok=ok, expected=expected, found=error.verify_message)
        return Check(name=name, ok=True, expected=expected, found=f"for {self.name}")

    def _certificate(self) -> Check:
        from cryptography import x509  # noqa: PLC0415 - takes its time

        from cluster.tls.files import uncovered  # noqa: PLC0415 - as above

        with self.shake(context(), self.name) as connection:
            shown = connection.getpeercert(binary_form=True) or b""
        certificate = x509.load_der_x509_certificate(shown)
        config = self.topology.config
        names = [] if "_" in config.site.server_names else names_of(config)
        missing = uncovered(certificate, names)
        left = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
        found = f"until {certificate.not_valid_after_utc:%Y-%m-%d}"
        found += f", not for {', '.join(missing)}" if missing else f", for {len(names)} names" if names else ""
        few = dt.timedelta(days=FEW_DAYS)
        if self.tls.acme is not None:  # which may be given for a few days alone
            few = (certificate.not_valid_after_utc - certificate.not_valid_before_utc) * LATE_PART
        ok: bool | None = not missing and left > dt.timedelta()
        if ok and left < few:
            remedy = "renew it" if self.tls.acme is None else "`cluster status` says why it is not renewed"
            ok, found = None, f"{found}: in {left.days} days; {remedy}"
        expected = f"all names of the site, {few.days or 1} days at least"
        return Check(name="the certificate covers the site", ok=ok, expected=expected, found=found)

    def _versions(self) -> Iterator[Check]:
        for name, version in NEW.items():
            by = context()
            by.minimum_version = by.maximum_version = version
            by.set_alpn_protocols(["h2", "http/1.1"])
            with self.shake(by, self.name) as connection:
                spoken, chosen = connection.version(), connection.selected_alpn_protocol()
            wanted = "h2" if self.tls.http2 else "http/1.1"
            yield Check(
                name=f"{name} is spoken",
                ok=(spoken, chosen) == (name, wanted),
                expected=f"{name}, {wanted}",
                found=f"{spoken}, {chosen}",
            )
        by = context()
        by.set_ciphers("ALL:@SECLEVEL=0")  # what speaks them needs the weak ones
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that they should not be spoken is what is looked at
            by.minimum_version, by.maximum_version = OLD
        ok: bool | None
        try:
            with self.shake(by, self.name) as connection:
                ok, found = False, str(connection.version())
        except ssl.SSLError as error:
            ok, found = (True, "refused") if any(word in str(error.reason) for word in REFUSED) else (None, str(error))
        except ConnectionError:
            ok, found = True, "refused"
        yield Check(name="TLS before 1.2 is refused", ok=ok, expected="refused", found=found)

    def _datagrams(self) -> Check:
        """Ask by UDP for a version of QUIC that nobody speaks: whoever speaks one says which."""
        name, expected = "HTTP/3 answers by UDP", "QUIC, version 1"
        if self.tls.listen in self.ways:  # by a port that SSH forwards, which is TCP's alone
            return Check(name=name, ok=None, expected=expected, found="UDP does not lead there from here")
        try:
            spoken = quic.versions(self.host, self.tls.listen, TIMEOUT)
        except OSError as error:
            return Check(name=name, ok=False, expected=expected, found=f"{type(error).__name__}: {error}")
        found = ", ".join(f"version {one}" for one in spoken)
        return Check(name=name, ok=quic.VERSION in spoken, expected=expected, found=f"QUIC, {found or 'no version'}")

    def _stranger(self) -> Check:
        """Ask by a name that is no site's."""
        name, expected = "another site's name gets no answer", "no handshake, or no answer"
        if "_" in self.topology.config.site.server_names:
            return Check(name=name, ok=None, expected=expected, found="any name is the site's (_)")
        try:
            with self.shake(context(), STRANGE) as connection:
                connection.sendall(f"GET / HTTP/1.1\r\nHost: {STRANGE}\r\n\r\n".encode())
                said = connection.recv(1)
        except OSError:
            said = b""
        found = "an answer" if said else "none"
        return Check(name=name, ok=not said, expected=expected, found=found)

    def _plain(self) -> Iterator[Check]:
        """Ask the plain port: it sends all to https, sets no cookie, and shows nothing of the runtime's."""
        origin = site_origin(self.topology.config, self.name)
        host = urllib.parse.urlsplit(origin).hostname or ""
        port = self.topology.config.site.listen
        for path in ("/", "/-/health"):
            proxied = self.topology.config.site.proxy_protocol
            connection = Connection(self._at(port), None, proxied=proxied)
            try:
                connection.request("GET", path, headers={"Host": str(Endpoint(host=host, port=port))})
                answer = connection.getresponse()
            finally:
                connection.close()
            location, cookies = answer.headers.get("Location", ""), answer.headers.get_all("Set-Cookie") or []
            yield Check(
                name=f"http leads {path} to https",
                ok=(answer.status, location, cookies) == (http.client.PERMANENT_REDIRECT, f"{origin}{path}", []),
                expected=f"308 to {origin}{path}, no cookie",
                found=f"{answer.status} to {location or 'nowhere'}, {len(cookies)} cookies",
            )

    def _strict(self, wanted: str) -> Check:
        """Ask by both for what nginx answers itself: browsers are told by https alone to keep to it."""
        found = []
        for port, name in ((self.tls.listen, self.name), (self.topology.config.site.listen, None)):
            proxied = self.topology.config.site.proxy_protocol
            connection = Connection(self._at(port), name, proxied=proxied)
            try:
                connection.request("GET", "/-/health", headers={"Host": str(Endpoint(host=self.name, port=port))})
                found.append(connection.getresponse().headers.get_all(STRICT) or [])
            finally:
                connection.close()
        ok, words = found == [[wanted], []], [", ".join(said) or "nothing" for said in found]
        return Check(
            name=f"{STRICT} is said by https alone",
            ok=ok,
            expected=wanted,
            found=f"{words[0]}, and by http {words[1]}",
        )
