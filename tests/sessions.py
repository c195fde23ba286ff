"""What must hold of sessions on every platform: a matrix of engines and of what may happen to them, under load.

The platform is the stand. A row is one event: how many requests were counted and failed, how many sessions were used
and lost. Sessions are of two kinds: those of the load, used all the time, and idle ones, used once after each event.
"""

from __future__ import annotations

import http.client
import json
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from cluster.config.models import SessionEngine
from cluster.sessions import CANNOT_SURVIVE, Fault
from tests.load import SPARSE, Load

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.local.stand import Result

#: Those that the stack makes; what `project` keeps, the project alone knows.
ENGINES = tuple(engine.value for engine in SessionEngine if engine is not SessionEngine.PROJECT)

#: Engines in an order that has each once as the former and once as the new one.
CYCLE = ("cached_db", "cache", "file", "signed_cookies", "db", "cached_db")

#: Those that use memcached.
CACHED = ("cached_db", "cache")

IDLE = 20

#: Requests before and after an event.
AROUND = 60

#: Seconds after the return of a store within which requests may still fail.
RECOVERY = 5.0

KILLED_INSTANCE = "an instance killed"


class SessionStand(Protocol):
    """A cluster whose stores can be let down."""

    name: str
    address: tuple[str, int]
    stack: dict[str, Any]

    def up(self) -> Result: ...
    def write(self) -> None: ...
    def run(self, *arguments: str) -> Result: ...
    def start(self, *arguments: str) -> subprocess.Popen[str]: ...
    def status(self) -> dict[str, Any]: ...
    def edit_stack(self, change: Callable[[dict[str, Any]], object]) -> None: ...
    def edit_code(self, path: str, text: str) -> None: ...
    def kill(self, instance: str, sent: signal.Signals) -> None: ...
    def wait_healthy(self) -> None: ...
    def kill_memcached(self, *names: str) -> None: ...
    def restart_database(self) -> None: ...
    def end_waiting_of_rotation(self) -> None: ...


def tour() -> list[str]:
    """Return the engines in an order in which each is changed to each other one exactly once, and the first is last."""
    left = {former: [engine for engine in ENGINES if engine != former] for former in ENGINES}
    path, found = [CYCLE[0]], []
    while path:  # Hierholzer
        if left[path[-1]]:
            path.append(left[path[-1]].pop())
        else:
            found.append(path.pop())
    return found[::-1]


class Idle:
    """Sessions whose users come back after each event only."""

    def __init__(self, address: tuple[str, int], count: int = IDLE) -> None:
        self.address = address
        self.cookies: list[dict[str, str]] = [{} for _number in range(count)]
        self.visits = [0] * count
        assert self.come_back() == []

    def come_back(self) -> list[str]:
        """Let each user come once; return a line for each whose session is not as it was stored.

        Who has lost a session goes on with the one that was begun instead: one that nobody uses would stay for long.
        """
        lost = []
        for number, cookies in enumerate(self.cookies):
            expected, self.visits[number] = self.visits[number] + 1, self._visit(cookies)
            if self.visits[number] != expected:
                lost.append(f"idle user {number}: {self.visits[number]} visits, expected {expected}")
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
    """One event, and what it cost. wrong: what must not be, a line each."""

    engine: str
    event: str
    requests: int
    failed: list[str]
    lost: list[str]
    wrong: list[str] = field(default_factory=list)
    recovered: float | None = None

    def __str__(self) -> str:
        after = "" if self.recovered is None else f", the last {self.recovered:.1f} s after the store's return"
        failed = f"{len(self.failed)} of {self.requests:,} requests failed{after}"
        return f"{self.engine}: {self.event}: {failed}, {len(self.lost)} sessions lost"


class Matrix:
    """The events of one stand, under one load."""

    def __init__(self, stand: SessionStand, load: Load) -> None:
        self.stand, self.load = stand, load
        self.engine: str = stand.stack["sessions"]["engine"]
        self.idle = Idle(stand.address)
        self.rows: list[Row] = []

    def event(
        self,
        name: str,
        do: Callable[[], Any],
        *,
        spares: tuple[str, ...] = (),
        outage: bool = False,
        fatal: bool = False,
    ) -> Row:
        """Do something under load, let the idle users come back, and note what it cost.

        spares: kinds of requests of which the instances that are killed may have had some. outage: `do` returns when a
        store has returned, and until RECOVERY after that requests may fail. fatal: no engine could keep the sessions.
        """
        self.load.wait_for(AROUND)
        before = self.load.snapshot()
        do()
        returned = time.monotonic()
        if outage:
            time.sleep(RECOVERY)
        recovered = self.load.snapshot()
        self.load.wait_for(AROUND)
        lost = self.idle.come_back()
        counts = self.load.snapshot()
        late = counts.since(recovered).failed if outage else counts.since(before).failed
        counts = counts.since(before)
        wrong = [line for line in late if not line.startswith(spares or "\0")]
        lost = counts.lost + lost
        if fatal and not lost:
            wrong.append("no session was lost: the table of what an engine cannot survive is wrong")
        row = Row(
            engine=self.engine,
            event=name,
            requests=counts.total,
            failed=counts.failed,
            lost=lost,
            wrong=wrong + ([] if fatal else lost),
            recovered=max(0.0, self.load.last_failure - returned) if outage and counts.failed else None,
        )
        self.rows.append(row)
        print(row, flush=True)
        return row

    def up(self) -> None:
        result = self.stand.up()
        assert result.status == 0, result.output

    def set(self, **sessions: Any) -> None:
        """Change keys of `sessions` (None removes one), and bring it up."""
        self._write(**sessions)
        self.up()

    def _write(self, **sessions: Any) -> None:
        keys = self.stand.stack["sessions"]
        keys |= sessions
        for name in [name for name, value in keys.items() if value is None]:
            del keys[name]
        self.stand.write()

    # --- changes of the engine

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

    def take_back_half_way(self, engine: str) -> None:
        """Interrupt a change of the engine when half of the instances are changed, and go back to the former stack."""
        former, app = self.engine, self.stand.stack["app"]

        def half() -> None:
            app["rollout"] = {"batch": 1}
            self._write(engine=engine, previous=former)
            process = self.stand.start("up", self.stand.name)
            interrupt_at(process, "serves release", times=len(self.stand.stack["upstream"]["servers"]) // 2)

        def back() -> None:
            self._write(engine=former, previous=None)
            self.up()
            del app["rollout"]

        self.event(f"half way to {engine}", half)
        self.event(f"taken back from half way to {engine}", back)

    def await_stage(self, stage: str) -> None:
        """Wait until every serving instance says that it acts so."""
        deadline = time.monotonic() + 30
        while True:
            said = {one["sessions"]["stage"] for row in self.stand.status()["instances"] for one in row["processes"]}
            if said == {stage}:
                return
            assert time.monotonic() < deadline, said
            time.sleep(0.5)

    # --- other changes

    def weight(self, value: int) -> None:
        self.stand.edit_stack(lambda stack: stack["upstream"]["servers"][1].update(weight=value))
        self.up()

    def release(self, text: str) -> None:
        self.stand.edit_code("visits/apps.py", f"# {text}\n")
        self.up()

    def rotate(self) -> str:
        result = self.stand.run("rotate-key", self.stand.name)
        assert result.status == 0, result.output
        return result.output

    def rotate_key(self) -> None:
        """Rotate the key; all sessions are used between its steps, so that the third is due as it is in the end."""
        self.event("key rotated, steps 1 and 2", self.rotate)
        self.stand.end_waiting_of_rotation()
        self.event("key rotated, step 3", self.rotate)

    # --- faults

    def kill_instance(self, name: str) -> None:
        def kill() -> None:
            self.stand.kill(name, signal.SIGKILL)
            self.stand.wait_healthy()

        self.event(KILLED_INSTANCE, kill, spares=("POST",))

    def kill_memcached(self, *names: str) -> None:
        fault = Fault.ALL_OF_MEMCACHED if len(names) > 1 else Fault.MEMCACHED_NODE
        fatal = (SessionEngine(self.engine), fault) in CANNOT_SURVIVE

        def kill() -> None:
            self.stand.kill_memcached(*names)
            time.sleep(0 if fatal else 2)  # what comes back is noticed, and filled in the background

        self.event(fault, kill, fatal=fatal, outage=fatal)

    def restart_database(self) -> None:
        """Restart the database: the forms of the load need it whatever keeps the sessions."""
        self.event(Fault.DATABASE, self.stand.restart_database, outage=True)

    # --- all of it

    def everything(self) -> None:
        """Each engine through each change and fault, and a change of each engine to each other one."""
        seen: set[str] = set()
        path = tour()
        for number, engine in enumerate(path[1:], 1):
            if self.engine not in seen:
                seen.add(self.engine)
                self.all_of_engine(number, engine)
            self.change(engine)

    def all_of_engine(self, number: int, other: str) -> None:
        """Let everything happen to the engine that is in force; `other`: which one it is changed to half way."""
        nodes = [f"memcached{node}" for node in range(1, 3)]
        self.event("a release", lambda: self.release(f"release {number}"))
        self.event("weight change", lambda: self.weight(2 + number))
        self.kill_instance("app1")
        if self.engine in CACHED:
            self.kill_memcached(nodes[0])
            self.kill_memcached(*nodes)
            self.event(
                "memcached's memory changed", lambda: self.set(memcached={"nodes": 2, "memory": f"{32 + number}m"})
            )
        self.restart_database()
        self.rotate_key()
        self.take_back_half_way(other)
        self.take_back(other)

    def wrong(self) -> list[Row]:
        """Return the rows of events that cost what they must not."""
        return [row for row in self.rows if row.wrong]


def interrupt_at(process: subprocess.Popen[str], words: str, *, times: int) -> None:
    """Interrupt a command when it has printed lines with `words` as often as that; it ends cleanly."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line.rstrip())
        if sum(words in one for one in seen) == times:
            process.send_signal(signal.SIGINT)
            break
    seen += process.stdout.read().splitlines()
    assert process.wait(120) == 130, seen  # as a shell says of an interrupt


def load_of(stand: SessionStand) -> Load:
    return Load(stand.address, clients=8, slow=1, pause=SPARSE)
