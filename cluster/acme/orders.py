"""What is asked of the authority, by the protocol's own client.

Sources: RFC 8555 (ACME), RFC 9773 (when to renew).
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.errors import Error as JoseError
from josepy.jwa import ES256

from cluster.acme.account import account_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import requests

    from cluster.acme.wanted import Wanted

#: Told to the authority, which may ask who sends too much.
AGENT = "django-cluster"

#: How often a nonce that the authority refuses is replaced at once: it forgets them when it likes.
NONCES = 8

#: Seconds that one request may take, and an order.
PATIENCE, ORDER_PATIENCE = 30, 180


class OrderError(Exception):
    """The authority gave no certificate; the text says why. wait: seconds for which it wants to be left alone."""

    def __init__(self, text: str, wait: float = 0) -> None:
        super().__init__(text)
        self.wait = wait


class _Network(client.ClientNetwork):
    """The client's network, which is patient with nonces, and remembers for how long it is told to wait."""

    wait: float = 0

    def _send_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        response = super()._send_request(method, url, *args, **kwargs)
        self.wait = 0 if response.ok else _wait_of(response)
        return response

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        for left in range(NONCES, -1, -1):
            try:
                return self._post_once(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce" or not left:
                    raise
        raise AssertionError("the last one is returned or raised")


def _wait_of(response: requests.Response) -> float:
    if "Retry-After" not in response.headers:
        return 0
    return max(0, (client.ClientV2.retry_after(response, 0) - dt.datetime.now()).total_seconds())  # noqa: DTZ005 - its own


class Authority:
    """Who signs: `account` is the account's key, PEM. ValueError where that is none."""

    def __init__(self, wanted: Wanted, account: str) -> None:
        self.wanted = wanted
        self.key = account_of(account)
        self.network = _Network(
            self.key,
            alg=ES256,
            # Typed as a truth, and given to requests, which takes a path as well.
            verify_ssl=wanted.trusted or True,  # type: ignore[arg-type]
            user_agent=AGENT,
            timeout=PATIENCE,
        )

    def order(self, names: Sequence[str], key: str) -> str:
        """Return a certificate with those of the authorities above it, PEM. key: its private key, PEM.

        OrderError where there is none.
        """
        try:
            return self._ordered(names, key)
        except (errors.Error, messages.Error, OSError, JoseError, KeyError, ValueError) as error:
            raise OrderError(_said(error), self.network.wait) from error

    def renewal(self, chain: str) -> tuple[dt.datetime | None, dt.datetime]:
        """Return when a certificate should be renewed, None where the authority says nothing, and when to ask again.

        OrderError where it can't be asked.
        """
        try:
            when, again = self._client().renewal_time(chain.encode())
        except (errors.Error, messages.Error, OSError, JoseError, KeyError, ValueError) as error:
            raise OrderError(_said(error), self.network.wait) from error
        return when, again.astimezone(dt.UTC)

    def _client(self) -> client.ClientV2:
        return client.ClientV2(client.ClientV2.get_directory(self.wanted.directory, self.network), self.network)

    def _ordered(self, names: Sequence[str], key: str) -> str:
        asked = self._client()
        if asked.external_account_required():
            raise OrderError("it takes accounts only that were made by hand (external account binding)")
        self._register(asked)
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

    def _register(self, asked: client.ClientV2) -> None:
        """Make the account, or find it. Whoever names an authority in the stack file agrees to its terms."""
        wanted = messages.NewRegistration.from_data(email=self.wanted.email or None, terms_of_service_agreed=True)
        try:
            asked.new_account(wanted)
        except errors.ConflictError as error:
            known = messages.RegistrationResource(uri=error.location, body=messages.Registration())
            self.network.account = known


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
    if isinstance(error, errors.TimeoutError):
        return f"it did not decide within {ORDER_PATIENCE} s"
    if isinstance(error, messages.Error):
        below = [
            f"{one.identifier.value}: {one.detail}" for one in error.subproblems or () if one.identifier is not None
        ]
        return "; ".join([f"{error.code or error.typ}: {error.detail}", *below])
    return f"{type(error).__name__}: {error}"
