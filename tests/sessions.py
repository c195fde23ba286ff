"""What must hold of sessions on every platform: a matrix of engines and of what may happen to them, under load.

The platform is the stand. A row is one event: how many requests were counted and failed, how many sessions were used
and lost. Sessions are of two kinds: those of the load, used all the time, and idle ones, used once after each event.
"""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.load import Load

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.local.stand import Stand

#: Engines in an order that has each once as the former and once as the new one.
CYCLE = ("cached_db", "cache", "file", "signed_cookies", "db", "cached_db")

IDLE = 20

#: Requests before and after an event.
AROUND = 150


class Idle:
    """Sessions whose users come back after each event only."""

    def __init__(self, address: tuple[str, int], count: int = IDLE) -> None:
        self.address = address
        self.cookies: list[dict[str, str]] = [{} for _number in range(count)]
        self.visits = 0
        assert self.come_back() == []

    def come_back(self) -> list[str]:
        """Let each user come once; return a line for each whose session is not as it was stored."""
        self.visits += 1
        lost = []
        for number, cookies in enumerate(self.cookies):
            found = self._visit(cookies)
            if found != self.visits:
                lost.append(f"idle user {number}: {found} visits, expected {self.visits}")
        return lost

    def _visit(self, cookies: dict[str, str]) -> int:
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        headers = {"Host": "cluster", "Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
        connection.request("GET", "/whoami", headers=headers)
        response = connection.getresponse()
        text = response.read().decode()
        assert response.status == 200, text[:300]
        for line in response.headers.get_all("Set-Cookie") or []:
            name, _, value = line.partition(";")[0].partition("=")
            cookies[name] = value
        connection.close()
        visits: int = json.loads(text)["visits"]
        return visits


@dataclass(frozen=True, kw_only=True)
class Row:
    """One event, and what it cost."""

    engine: str
    event: str
    requests: int
    failed: list[str]
    lost: list[str]

    def __str__(self) -> str:
        sessions = f"{len(self.lost)} sessions lost"
        return f"{self.engine}: {self.event}: {len(self.failed)} of {self.requests:,} requests failed, {sessions}"


class Matrix:
    """The events of one stand, under one load."""

    def __init__(self, stand: Stand, load: Load) -> None:
        self.stand, self.load = stand, load
        self.engine: str = stand.stack["sessions"]["engine"]
        self.idle = Idle(stand.address)
        self.rows: list[Row] = []

    def event(self, name: str, do: Callable[[], Any]) -> Row:
        """Do something under load, let the idle users come back, and note what it cost."""
        self.load.wait_for(AROUND)
        before = self.load.counts.copy()
        do()
        self.load.wait_for(AROUND)
        lost = self.idle.come_back()
        counts = self.load.counts.copy().since(before)
        row = Row(engine=self.engine, event=name, requests=counts.total, failed=counts.failed, lost=counts.lost + lost)
        self.rows.append(row)
        print(row)
        return row

    def up(self) -> None:
        result = self.stand.up()
        assert result.status == 0, result.output

    def set(self, **sessions: Any) -> None:
        """Change keys of `sessions` (None removes one), and bring it up."""
        keys = self.stand.stack["sessions"]
        keys |= sessions
        for name in [name for name, value in keys.items() if value is None]:
            del keys[name]
        self.stand.write()
        self.up()

    def change(self, engine: str) -> None:
        """Change the engine, in two releases: the second one when nothing is left in the former engine."""
        former = self.engine
        self.event(f"to {engine}, beside {former}", lambda: self.set(engine=engine, previous=former))
        self.await_stage("move")
        self.event(f"to {engine}, all of it", lambda: time.sleep(1))
        self.engine = engine
        self.event(f"without {former}", lambda: self.set(previous=None))

    def take_back(self, engine: str) -> None:
        """Change the engine and go back, after sessions were moved."""
        former = self.engine
        self.event(f"to {engine}, beside {former}", lambda: self.set(engine=engine, previous=former))
        self.await_stage("move")
        self.event(f"to {engine}, all of it", lambda: time.sleep(1))
        self.event(f"back to {former}, beside {engine}", lambda: self.set(engine=former, previous=engine))
        self.await_stage("move")
        self.event(f"back to {former}, all of it", lambda: time.sleep(1))
        self.event(f"without {engine}", lambda: self.set(previous=None))

    def await_stage(self, stage: str) -> None:
        """Wait until every serving instance says that it acts so."""
        deadline = time.monotonic() + 30
        while True:
            said = {one["sessions"]["stage"] for row in self.stand.status()["instances"] for one in row["processes"]}
            if said == {stage}:
                return
            assert time.monotonic() < deadline, said
            time.sleep(0.3)

    def weight(self, value: int) -> None:
        self.stand.edit_stack(lambda stack: stack["upstream"]["servers"][1].update(weight=value))
        self.up()

    def release(self, text: str) -> None:
        self.stand.edit_code("visits/apps.py", f"# {text}\n")
        self.up()

    def whole(self) -> list[Row]:
        """Return the rows of events that may cost nothing at all and did."""
        return [row for row in self.rows if row.failed or row.lost]


def load_of(stand: Stand) -> Load:
    return Load(stand.address, clients=8, slow=1)
