"""Counted load: clients that keep their connections and their sessions, and count every request.

A request failed when it was not answered, or was answered with a status of 500 or more. Nothing is retried by the
client. A session is lost when its cookie no longer yields the number of visits that was last stored. A visit is
repeated when it was counted twice: nginx tried another instance after one had died with the request half done. A
response is cut when it had begun and did not end: nothing can answer such a request again.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = 60.0

#: A client's pause, in seconds, where a test counts changes more than requests: the load is most of what it costs.
SPARSE = 0.3


@dataclass
class Counts:
    """What the clients of one load saw. `failed` and `lost` hold a line for each, `by` the answers of each release."""

    requests: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    repeated: int = 0
    cut: int = 0
    by: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.requests.total()

    def failures(self, kind: str) -> int:
        return sum(line.startswith(kind + " ") for line in self.failed)

    def since(self, before: Counts) -> Counts:
        """Return what was counted after `before`."""
        return Counts(
            requests=self.requests - before.requests,
            failed=self.failed[len(before.failed) :],
            lost=self.lost[len(before.lost) :],
            repeated=self.repeated - before.repeated,
            cut=self.cut - before.cut,
            by=self.by - before.by,
        )

    def copy(self) -> Counts:
        return Counts(self.requests.copy(), [*self.failed], [*self.lost], self.repeated, self.cut, self.by.copy())

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.requests.items()))
        more = [f"{self.cut} responses cut after they had begun"] if self.cut else []
        more += [f"{self.repeated} visits counted twice"] if self.repeated else []
        failed = f"{len(self.failed)} of {self.total:,} requests failed ({kinds})"
        return ", ".join([failed, f"{len(self.lost)} sessions lost", *more])


class Client(threading.Thread):
    """One client: one connection at a time, one session."""

    def __init__(self, load: Load, number: int) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.load = load
        self.number = number
        self.connection: http.client.HTTPConnection | None = None
        self.cookies: dict[str, str] = {}
        self.visits = 0
        self.uncertain = False
        self.token = ""
        self.posted = 0

    def run(self) -> None:
        while not self.load.stopped.is_set():
            if self.number in self.load.slow_clients:
                if self.request("slow", "GET", f"/slow?seconds={self.load.slow_seconds}") is None:
                    time.sleep(self.load.slow_seconds)  # as long as it would have taken: it does not count more of them
                continue
            self.visit()
            if self.load.posts:
                self.post()
            time.sleep(self.load.pause)

    def visit(self) -> None:
        answer = self.request("GET", "GET", "/whoami")
        if answer is None:
            self.uncertain = True
            return
        found = answer["visits"]
        if found <= self.visits:
            self.load.count_lost(f"{self.name}: {found} visits, expected {self.visits + 1}")
        if found > self.visits + (2 if self.uncertain else 1):
            self.load.count_repeated()
        self.visits, self.uncertain = found, False

    def post(self) -> None:
        if not self.token:
            self.request("GET", "GET", "/form")
        if not self.token:
            return
        self.posted += 1
        text = f"{self.name}-{self.posted}"
        body = f"csrfmiddlewaretoken={self.token}&text={text}"
        answer = self.request("POST", "POST", "/form", body)
        if answer is not None and answer.get("text") != text:
            self.load.count_failed(f"POST /form: answered {answer}")

    def request(self, kind: str, method: str, path: str, body: str | None = None) -> dict[str, Any] | None:
        headers = {
            **self.load.headers,
            "Host": self.load.host,
            "Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items()),
        }
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        began = time.monotonic()
        try:
            if self.connection is None:
                self.connection = self.load.connect(self.number)
            self.connection.request(method, path, body, headers)
            response = self.connection.getresponse()
            text = response.read().decode("utf-8", "replace")
        except http.client.IncompleteRead:
            # The response had begun, and the instance died: nobody can answer it again.
            self.connection = None
            self.load.count(kind, None, cut=True)
            return None
        except (OSError, http.client.HTTPException) as error:
            if self.connection is not None:
                self.connection.close()
            self.connection = None
            after = time.monotonic() - began
            self.load.count(kind, f"{method} {path}: {type(error).__name__}: {error} after {after:.3f} s")
            return None
        for line in response.headers.get_all("Set-Cookie") or []:
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        if response.status >= 400:
            self.load.count(kind, f"{method} {path}: {response.status} {text[:200]}")
            return None
        answer: dict[str, Any] = {}
        if response.headers["Content-Type"].startswith("application/json"):
            answer = json.loads(text)
            self.load.count_answer(answer)
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', text)
        if token:
            self.token = token[1]
        self.load.count(kind, None)
        return answer


class Load:
    """A number of clients against one address, as a context manager; `counts` is final after it.

    pause: seconds that a client waits after a GET and a POST. Without it the load takes all the processor time, and
    what is tested spends its own waiting for some. source: the clients' address; the system's choice where it is empty.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        host: str = "cluster",
        clients: int = 12,
        slow: int = 3,
        slow_seconds: float = 1.0,
        posts: bool = True,
        pause: float = 0.2,
        source: str = "",
    ) -> None:
        self.address = address
        self.source = (source, 0)
        self.host = host
        #: Sent with every request.
        self.headers: dict[str, str] = {}
        self.posts = posts
        self.pause = pause
        self.slow_seconds = slow_seconds
        self.slow_clients = set(range(slow))
        self.counts = Counts()
        self.stopped = threading.Event()
        #: When a request failed last, by the monotonic clock.
        self.last_failure = 0.0
        self._lock = threading.Lock()
        self.clients = [Client(self, number) for number in range(clients)]

    def __enter__(self) -> Load:
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stopped.set()
        for client in self.clients:
            client.join(TIMEOUT + 10)
        assert not any(client.is_alive() for client in self.clients), "a client hangs"

    def connect(self, number: int) -> http.client.HTTPConnection:
        """Return the connection of a client, by its number."""
        return http.client.HTTPConnection(*self.address, timeout=TIMEOUT, source_address=self.source)

    def count(self, kind: str, failure: str | None, *, cut: bool = False) -> None:
        with self._lock:
            self.counts.requests[kind] += 1
            self.counts.cut += cut
            if failure is not None:
                self.last_failure = time.monotonic()
                self.counts.failed.append(f"{kind} {time.strftime('%H:%M:%S')} {failure}")

    def count_failed(self, failure: str) -> None:
        with self._lock:
            self.counts.failed.append(failure)

    def count_lost(self, line: str) -> None:
        with self._lock:
            self.counts.lost.append(line)

    def count_repeated(self) -> None:
        with self._lock:
            self.counts.repeated += 1

    def snapshot(self) -> Counts:
        with self._lock:
            return self.counts.copy()

    def count_answer(self, answer: dict[str, Any]) -> None:
        with self._lock:
            self.counts.by[answer.get("instance", ""), answer.get("release", "")] += 1

    def wait_for(self, requests: int, timeout: float = 60.0) -> None:
        """Return after `requests` more were counted."""
        goal = self.counts.total + requests
        deadline = time.monotonic() + timeout
        for _ in self._ticks():
            if self.counts.total >= goal:
                return
            assert time.monotonic() < deadline, f"only {self.counts}"

    def _ticks(self) -> Iterator[None]:
        while True:
            yield
            time.sleep(0.02)
