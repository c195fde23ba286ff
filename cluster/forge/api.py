"""Requests to a forge's REST API: all pages, another try where that helps, and no token in what is said."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from cluster.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: What a request may take, seconds.
TIMEOUT = 30.0

#: Tries of one request in all.
TRIES = 6

#: What one run waits for a forge in all, seconds; one that asks for more is told of as a failure.
PATIENCE = 300.0

#: Where a limit of requests is reached and nothing says for how long: what GitHub asks for, seconds.
LIMITED = 60.0

#: Pages of a hundred comments; a forge that has more goes round in a circle.
PAGES = 1000

#: Characters of a refusal's reason that are told.
LONGEST = 500

TOO_MANY = 429
FORBIDDEN = 403
GONE = (404, 410)
SERVER = range(500, 600)

#: What a token may be made of; anything else an HTTP library would refuse, and print.
TOKEN = re.compile(r"[\x21-\x7e]+")


class ForgeError(CommandError):
    """A forge has refused a request.

    status: of its answer, 0 for none. again: whether it may go by now, and whoever asked is to look first at what has
    become of it, and at what others did meanwhile.
    """

    def __init__(self, text: str, status: int = 0, *, again: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.again = again


@dataclass(kw_only=True)
class Api:
    """A forge's API. hints: what helps, by the status of its answer. token: is taken out of whatever is said.

    transport, sleep, clock: for tests. clock: seconds since the epoch.
    """

    name: str
    url: str
    headers: Mapping[str, str]
    token: str
    hints: Mapping[int, str] = field(default_factory=dict)
    transport: httpx.BaseTransport | None = None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.time
    waited: float = 0.0

    def __post_init__(self) -> None:
        if not TOKEN.fullmatch(self.token):
            raise CommandError(f"{self.name}: the token holds characters that no token has (a space, a line's end)")
        self.client = httpx.Client(headers=dict(self.headers), timeout=TIMEOUT, transport=self.transport)

    def ask(self, method: str, path: str, content: object = None, *, reads: bool = False) -> Any:
        """Return what the forge answers, read as JSON; None for nothing. ForgeError where it refuses.

        reads: that a request changes nothing, though it is no GET: it is sent again where that helps.
        """
        answer = self._answer(method, self._address(path), content, reads=reads or method == "GET")
        return self._read(answer) if answer.content else None

    def ask_if_there(self, method: str, path: str, content: object = None) -> None:
        """Change what may have gone meanwhile: then there is nothing to do. Else as `ask`."""
        try:
            self.ask(method, path, content)
        except ForgeError as error:
            if error.status not in GONE:
                raise

    def pages(self, path: str) -> Iterator[Any]:
        """Yield what is on all pages of a list, in order."""
        address: str | None = self._address(path)
        for _page in range(PAGES):
            answer = self._answer("GET", str(address), None, reads=True)
            found = self._read(answer)
            if not isinstance(found, list):
                raise ForgeError(self._said("GET", str(address), "the answer is no list"))
            yield from found
            address = answer.links.get("next", {}).get("url")
            if address is None:
                return
            if _origin(address) != _origin(self.url):
                raise ForgeError(self._said("GET", self.url, "the next page is said to be on another server"))
        raise ForgeError(self._said("GET", self._address(path), f"more than {PAGES} pages"))

    def _address(self, path: str) -> str:
        return path if "://" in path else f"{self.url.rstrip('/')}/{path.lstrip('/')}"

    def _read(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError as error:
            words = self._said(answer.request.method, str(answer.url), "the answer is no JSON")
            raise ForgeError(words, answer.status_code) from error

    def _answer(self, method: str, address: str, content: object, *, reads: bool) -> httpx.Response:
        """Return an answer that is no refusal; another try is made of what only reads, after a while."""
        for left in reversed(range(TRIES)):
            answer, words, wait = self._tried(method, address, content, left)
            if answer is not None and answer.is_success:
                return answer
            refusal = self._refusal(method, address, answer.status_code if answer is not None else 0, words)
            if wait is None or not left:
                raise refusal
            self._wait(wait, method, address, words)
            if not reads:
                refusal.again = True
                raise refusal
        raise AssertionError  # the last try returns or raises

    def _tried(
        self, method: str, address: str, content: object, left: int
    ) -> tuple[httpx.Response | None, str, float | None]:
        """Return an answer, or None; what is wrong with it, in words; and how long to wait before another try."""
        try:
            answer = self.client.request(method, address, json=content)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            passing = isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)
            return None, f"no answer: {error}", self._pause(left) if passing else None
        return answer, f"{answer.status_code} {_message(answer)}", self._asked_to_wait(answer, left)

    def _refusal(self, method: str, address: str, status: int, words: str) -> ForgeError:
        hint = self.hints.get(status)
        return ForgeError(self._said(method, address, f"{words}; {hint}" if hint else words), status)

    def _asked_to_wait(self, answer: httpx.Response, left: int) -> float | None:
        """Return how long to wait before another try, seconds; None where another one would be refused too."""
        status, headers = answer.status_code, answer.headers
        spent = headers.get("x-ratelimit-remaining") == "0"
        limited = status == TOO_MANY or (
            status == FORBIDDEN and ("retry-after" in headers or spent or "rate limit" in _message(answer).lower())
        )
        if not limited and status not in SERVER:
            return None
        after = headers.get("retry-after", "")
        if after.isdigit():
            return float(after)
        reset = headers.get("x-ratelimit-reset", "")
        if spent and reset.isdigit():
            return max(1.0, float(reset) - self.clock())
        return LIMITED if limited else self._pause(left)

    @staticmethod
    def _pause(left: int) -> float:
        return float(2 ** (TRIES - 1 - left))

    def _wait(self, seconds: float, method: str, address: str, words: str) -> None:
        if self.waited + seconds > PATIENCE:
            raise ForgeError(
                self._said(method, address, f"{words}; it asks to wait {seconds:.0f} s more, which is too long")
            )
        self.waited += seconds
        self.sleep(seconds)

    def _said(self, method: str, address: str, words: str) -> str:
        """Return what is said of a request, in one line and without the token."""
        path = address.removeprefix(self.url.rstrip("/")).partition("?")[0]
        return " ".join(f"{self.name}: {method} {path}: {words}".replace(self.token, "***").split())


def _message(answer: httpx.Response) -> str:
    """Return what a forge says of a refusal, in its own words."""
    try:
        found = answer.json()
    except ValueError:
        return answer.reason_phrase
    if not isinstance(found, dict):
        return answer.reason_phrase
    errors = found.get("errors")
    told = [found.get("message") or found.get("error"), *(errors if isinstance(errors, list) else [])]
    return "; ".join(words for one in told if (words := _in_words(one)))[:LONGEST] or answer.reason_phrase


def _in_words(said: object) -> str:
    """Return a reason of a refusal; GitHub has objects with a message, GitLab lists of reasons by what is wrong."""
    if isinstance(said, dict):
        return (
            str(said["message"])
            if "message" in said
            else ", ".join(f"{key} {_in_words(one)}" for key, one in said.items())
        )
    if isinstance(said, list):
        return ", ".join(map(_in_words, said))
    return "" if said is None else str(said)


def _origin(address: str) -> tuple[str, str, int | None]:
    url = httpx.URL(address)
    return url.scheme, url.host, url.port


__all__ = ["GONE", "Api", "ForgeError"]
