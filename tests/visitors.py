"""Visitors of a site that is put into maintenance and taken out of it again, who count each answer."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter

from cluster.render.maintenance import page
from tests.clients import Clients
from tests.conformance import wait_until

MESSAGE = 'Back at "ten" </p><script>$host;\nSorry.'

#: How maintenance is turned on for them; what is let in comes after it.
ON = ("--message", MESSAGE, "--retry-after", "20m")

#: A file of the example's.
STATIC = "/static/visits/style.css"

CLIENTS = 8
TIMEOUT = 60.0


class Visitors(Clients):
    """Clients that keep their connections and sessions, and are kept out while the site is in maintenance.

    A request failed when it was not answered, or by something else than the site's answer or the page. A session is
    lost when its next answer from the site has not counted one visit more.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(CLIENTS, TIMEOUT + 10)
        self.address = address
        self.answers: Counter[int] = Counter()
        self.lost: list[str] = []

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {status}" for status, count in sorted(self.answers.items()))
        total = self.answers.total() + len(self.failed)
        return f"{len(self.failed)} of {total:,} requests failed ({kinds}), {len(self.lost)} sessions lost"

    def wait_for(self, status: int, count: int) -> None:
        """Return after so many more answers of a status."""
        goal = self.answers[status] + count
        wait_until(lambda: self.answers[status] >= goal, f"{count} answers of {status}: {self}")

    def client(self, number: int) -> None:
        connection = http.client.HTTPConnection(*self.address, timeout=TIMEOUT)
        cookie, visits = "", 0
        while not self.stopped.is_set():
            path = STATIC if number == 0 else "/whoami"
            try:
                connection.request("GET", path, headers={"Host": "cluster", "Cookie": cookie})
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.count(None, f"{time.strftime('%H:%M:%S')} {path}: {type(error).__name__}: {error}")
                continue
            if response.status == 503 and self.is_page(response, body):
                self.count(503)
            elif response.status == 200 and response.headers["Retry-After"] is None:
                self.count(response.status)
                if number:
                    cookie = (response.headers["Set-Cookie"] or cookie).partition(";")[0]
                    found = json.loads(body)["visits"]
                    if found != visits + 1:
                        with self.lock:
                            self.lost.append(f"{found} visits after {visits}")
                    visits = found
            else:
                self.count(None, f"{path}: {response.status} {body[:200]!r}")
            self.rest()
        connection.close()

    @staticmethod
    def is_page(response: http.client.HTTPResponse, body: bytes) -> bool:
        return (response.headers["Retry-After"], body.decode()) == ("1200", page(MESSAGE))

    def count(self, status: int | None, failure: str = "") -> None:
        with self.lock:
            if status is None:
                self.failed.append(failure)
            else:
                self.answers[status] += 1
