"""What is asked of the authority, by the protocol's own client.

Sources: RFC 8555 (ACME), RFC 9773 (when to renew).
"""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import TYPE_CHECKING, Any

from acme import challenges, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.b64 import b64encode
from josepy.jwa import ES256

from cluster.acme.account import account_of, check_binding
from cluster.acme.network import Client, Network, UnansweredError, within
from cluster_runtime import unfollowed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cluster.acme.wanted import Wanted

#: Told to the authority, which may ask who sends too much.
AGENT = "django-cluster"

#: Seconds that an authority may say nothing, that it may decide an order, and that all of an order may take.
PATIENCE, ORDER_PATIENCE, WHOLE_PATIENCE = 30, 180, 600

#: Seconds between two questions when to renew, whatever the authority says (RFC 9773, section 4.3.2).
SHORTEST_ASK, LONGEST_ASK = 60, 86400

#: Characters of what an authority says that are told.
SAID = 500


class OrderError(Exception):
    """The authority gave no certificate; the text says why. wait: seconds for which it wants to be left alone."""

    def __init__(self, text: str, wait: float = 0) -> None:
        super().__init__(text)
        self.wait = wait


class Authority:
    """Who signs: `account` is the account's key, PEM. ValueError where that is none."""

    def __init__(self, wanted: Wanted, account: str) -> None:
        self.wanted = wanted
        self.key = account_of(account)
        self.network = Network(
            self.key,
            alg=ES256,
            verify_ssl=wanted.trusted or True,
            user_agent=AGENT,
            timeout=PATIENCE,
        )

    def order(self, names: Sequence[str], key: str, former: str = "") -> str:
        """Return a certificate with those of the authorities above it, PEM. key: its private key, PEM.

        former: the one whose place it takes, PEM; empty for none. The authority is told of it where it knows such
        orders, which may then count for no limit of its. OrderError where there is none.
        """
        with self._asked():
            return self._ordered(names, key, former)

    def renewal(self, chain: str) -> tuple[dt.datetime | None, dt.timedelta]:
        """Return when a certificate should be renewed, None where the authority says nothing, and when to ask again.

        OrderError where it can't be asked.
        """
        with self._asked():
            when, again = self._client().renewal_time(chain.encode())
        pause = (again - dt.datetime.now()).total_seconds()  # noqa: DTZ005 - as the client counts
        return when, dt.timedelta(seconds=min(max(pause, SHORTEST_ASK), LONGEST_ASK))

    @contextlib.contextmanager
    def _asked(self) -> Iterator[None]:
        """Whatever it says, or does not, is the authority's fault."""
        try:
            with within(WHOLE_PATIENCE):
                yield
        except OrderError:
            raise
        except Exception as error:  # it can say anything, and the client expects what the protocol has
            raise OrderError(_plain(_said(error)), self.network.wait) from error

    def _client(self) -> Client:
        return Client(Client.get_directory(self.wanted.directory, self.network), self.network)

    def _ordered(self, names: Sequence[str], key: str, former: str) -> str:
        asked = self._client()
        if asked.external_account_required() and not self.wanted.eab:
            raise OrderError(
                "it takes accounts of those alone whom it knows already (external account binding): give the id of the "
                "key that it gave by site.tls.acme.eab, and the key by the secret acme_eab_key"
            )
        self._register(asked)
        # Only to those who say when to renew (RFC 9773, section 5).
        self.network.replaces = _id_of(former) if former and "renewalInfo" in asked.directory.to_partial_json() else ""
        order = asked.new_order(_request(names, key))
        for authorization in order.authorizations:
            if authorization.body.status == messages.STATUS_VALID:
                continue
            found = [one for one in authorization.body.challenges if isinstance(one.chall, challenges.HTTP01)]
            if not found:
                raise OrderError(f"it offers no HTTP-01 challenge for {authorization.body.identifier.value}")
            asked.answer_challenge(found[0], found[0].chall.response(self.key))
        deadline = dt.datetime.now() + dt.timedelta(seconds=ORDER_PATIENCE)  # noqa: DTZ005 - as the client counts
        return str(asked.poll_and_finalize(order, deadline).fullchain_pem)

    def _register(self, asked: Client) -> None:
        """Make the account, or find it. Whoever names an authority in the stack file agrees to its terms."""
        wanted = messages.NewRegistration.from_data(
            email=self.wanted.email or None, terms_of_service_agreed=True, external_account_binding=self._binding(asked)
        )
        try:
            asked.new_account(wanted)
        except errors.ConflictError as error:
            known = messages.RegistrationResource(uri=error.location, body=messages.Registration())
            self.network.account = known

    def _binding(self, asked: Client) -> dict[str, Any] | None:
        """Return what tells the authority whose the account is; None where it need not be told."""
        if not self.wanted.eab:
            return None
        key, public = self.wanted.binding(), self.key.public_key()
        check_binding(key)
        return messages.ExternalAccountBinding.from_data(public, self.wanted.eab, key, asked.directory)


def _request(names: Sequence[str], key: str) -> bytes:
    loaded = serialization.load_pem_private_key(key.encode(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)  # noqa: S101 - for mypy: as kept.new_key made it
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(loaded, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def _id_of(chain: str) -> str:
    """Return by what an authority knows a certificate (RFC 9773, section 4.1); empty where it does not say by whom."""
    certificate = x509.load_pem_x509_certificate(chain.encode())
    try:
        above = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return ""
    serial = certificate.serial_number
    # As in DER, where a first bit that is set would be a sign.
    number = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    return f"{b64encode(above).decode()}.{b64encode(number).decode()}" if above else ""


def _plain(text: str) -> str:
    """Return a text as one line that no terminal takes for a command."""
    line = " ".join(unfollowed.printable(text).split())
    return line if len(line) <= SAID else f"{line[:SAID]}…"


def _said(error: Exception) -> str:
    """Return why the authority gave nothing, in its own words where it has some."""
    if isinstance(error, errors.ValidationError):
        return "; ".join(
            f"{one.body.identifier.value}: {challenge.error.detail}"
            for one in error.failed_authzrs
            for challenge in one.body.challenges
            if challenge.error is not None
        )
    if isinstance(error, errors.IssuanceError):
        error = error.error
    if isinstance(error, UnansweredError):
        return str(error)
    if isinstance(error, errors.TimeoutError):
        return f"it did not decide within {ORDER_PATIENCE} s"
    if isinstance(error, messages.Error):
        below = [
            f"{one.identifier.value}: {one.detail}" for one in error.subproblems or () if one.identifier is not None
        ]
        return "; ".join([f"{error.code or error.typ}: {error.detail}", *below])
    return f"{type(error).__name__}: {error}"
