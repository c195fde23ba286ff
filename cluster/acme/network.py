"""How an authority is listened to: with an end to all that it says, and by https alone.

It is somebody else's, and what it says is no reason to wait for ever, to fill the memory, or never to ask again.

Sources: RFC 8555, section 6.5 (nonces) and 6.6 (rate limits), RFC 9110, section 10.2.3 (Retry-After), RFC 9773,
section 5 (`replaces`).
"""

from __future__ import annotations

import contextlib
import datetime as dt
import signal
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from acme import client, errors, messages
from josepy.json_util import field

from cluster.acme.kept import WEEK

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

#: How often a nonce that the authority refuses is replaced at once: it forgets them when it likes.
NONCES = 8

#: Seconds that an authority is left alone at most, whatever it says: no limit of a public one is longer.
LONGEST_WAIT = WEEK.total_seconds()

#: Bytes of an answer: a chain of certificates has some ten thousand.
LONGEST_ANSWER = 1 << 20


class UnansweredError(Exception):
    """It took too long. Below it no client takes it for a fault of its connection, which it would ask again by."""


def pause_of(text: str, now: dt.datetime) -> float | None:
    """Return the seconds that a Retry-After asks for, none of them negative; None where it is none."""
    try:
        seconds = float(int(text))
    except (ValueError, OverflowError):
        try:
            when = parsedate_to_datetime(text)
        except (ValueError, TypeError, OverflowError):
            return None
        seconds = ((when if when.tzinfo else when.replace(tzinfo=dt.UTC)) - now).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise UnansweredError where it takes longer, also by an answer that comes byte by byte. Main thread alone."""

    def over(*_arguments: object) -> None:
        raise UnansweredError(f"it did not answer within {seconds:g} s")

    began, handler = time.monotonic(), signal.signal(signal.SIGALRM, over)
    # Again each second: what is raised while an object is removed is lost.
    former, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if former:
            signal.setitimer(signal.ITIMER_REAL, max(former - (time.monotonic() - began), 0.001), interval)


class _Answer:
    """The body of an answer, of which no more is read than fits."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        """Yield what is there, as it is read by `requests`."""
        length = 0
        for part in self.raw.stream(*args, **kwargs):
            length += len(part)
            if length > LONGEST_ANSWER:
                raise OSError(f"its answer has more than {LONGEST_ANSWER} bytes")
            yield part

    def read(self, amount: int | None = None, **kwargs: Any) -> bytes:
        """Return what is there, as `requests` reads what it throws away."""
        found: bytes = self.raw.read(min(amount or LONGEST_ANSWER, LONGEST_ANSWER), **kwargs)
        return found


def _bounded(response: requests.Response, **_options: object) -> None:
    response.raw = _Answer(response.raw)


class Replacement(messages.NewOrder):
    """An order for a certificate that takes another one's place; acme (5.9) has no field for that."""

    replaces: str = field("replaces", omitempty=True)


class Network(client.ClientNetwork):
    """The client's network, which is patient with nonces, and remembers for how long it is told to wait.

    replaces: the certificate whose place the next order's takes, as RFC 9773 names it; empty for none.
    """

    wait: float = 0
    replaces: str = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        del self.session.adapters["http://"]  # whoever is on the way could say anything
        self.session.hooks["response"].append(_bounded)

    def _send_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        self.wait = 0
        response = super()._send_request(method, url, *args, **kwargs)
        if not response.ok:
            self.wait = pause_of(response.headers.get("Retry-After", ""), dt.datetime.now(dt.UTC)) or 0
        return response

    def post(self, url: str, obj: Any, *args: Any, **kwargs: Any) -> requests.Response:
        """Ask by POST: an order once more as any other, where the authority does not take it for another's place.

        That may have been taken already by an order that was cut off, or be another account's.
        """
        if self.replaces and isinstance(obj, messages.NewOrder):
            told = Replacement(identifiers=obj.identifiers, profile=obj.profile, replaces=self.replaces)
            try:
                return self._patient_post(url, told, *args, **kwargs)
            except errors.ConflictError:
                pass  # alreadyReplaced, of which the client keeps the status alone
            except messages.Error as error:
                if error.code == "rateLimited":
                    raise
        return self._patient_post(url, obj, *args, **kwargs)

    def _patient_post(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Ask by POST, again where it refuses a nonce."""
        for left in range(NONCES, -1, -1):
            try:
                return self._post_once(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce" or not left:
                    raise
        raise AssertionError("the last one is returned or raised")


class Client(client.ClientV2):
    """The protocol's client, which believes no absurd Retry-After: neither none at all, nor one without end."""

    @classmethod
    def retry_after(cls, response: requests.Response, default: int) -> dt.datetime:
        """Return when to ask again, as the client counts: by this machine's own clock."""
        pause = pause_of(response.headers.get("Retry-After", ""), dt.datetime.now(dt.UTC))
        return dt.datetime.now() + dt.timedelta(seconds=max(default if pause is None else pause, 1))  # noqa: DTZ005 - its own
