"""A change of the session engine, to each other engine: processes of both releases beside each other."""

from __future__ import annotations

import os
import random
import time
from contextlib import ExitStack
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest

from cluster_runtime.instance import Instance
from cluster_runtime.instance_link import InstanceLink
from cluster_runtime.sessions import ENGINES, nodes
from cluster_runtime.sessions.stage import BOTH, FOLLOW, FRESH, MOVE, SETTLED, STAGE_VARIABLE, Stages, wanted
from tests.runtime.test_sessions import Client, Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.runtime.standing import Stand

CHANGES = list(permutations(sorted(ENGINES), 2))
COOKIES = "signed_cookies"

#: Operations in each phase of a change.
OPERATIONS = 40


@pytest.fixture
def store(stand: Stand) -> Iterator[Store]:
    with ExitStack() as stack:
        yield Store(stand, stack)


class Bridged:
    """A process of a release that changes the engine, at a stage that the test sets."""

    def __init__(self, store: Store, engine: str, previous: str, name: str) -> None:
        self.file = store.stand.root / f"{name}.stage"
        self.file.write_text(FOLLOW)
        (self.client,) = store.clients(engine, 1, previous=previous, environment={STAGE_VARIABLE: str(self.file)})

    def set(self, stage: str) -> Client:
        self.file.write_text(stage)
        time.sleep(FRESH + 0.05)
        return self.client


class Sessions:
    """Sessions and what each must hold; counts what a process does not find as it was stored."""

    def __init__(self, seed: int, *, can_end: bool) -> None:
        self.random = random.Random(seed)
        self.expected: dict[str, dict[str, Any]] = {}
        self.ended: set[str] = set()
        self.can_end = can_end
        self.number = self.checked = 0
        self.wrong: list[str] = []

    def work(self, *clients: Client, operations: int = OPERATIONS) -> None:
        for _number in range(operations):
            client = self.random.choice(clients)
            what = self.random.choice(["create", "read", "read", "write", "write", "delete"])
            if what == "create" or len(self.expected) < 4:
                self.number += 1
                self.expected[client("create", n=self.number)] = {"n": self.number}
                continue
            key = self.random.choice(sorted(self.expected))
            self.check(client, key)
            if what == "write":
                self.write(client, key)
            elif what == "delete" and self.can_end and len(self.expected) > 6:
                client("delete", key)
                self.ended.add(key)
                del self.expected[key]
        for key in sorted(self.ended):
            for client in clients:
                if client("read", key) != {}:
                    self.wrong.append("a session that was ended is back")

    def check(self, client: Client, key: str) -> None:
        found = client("read", key)
        self.checked += 1
        if found != self.expected[key]:
            self.wrong.append(f"{found or 'nothing'} instead of {self.expected[key]}")

    def write(self, client: Client, key: str) -> None:
        self.number += 1
        answer = client.answer("write", key, n=self.number)
        if "error" in answer:
            self.wrong.append(answer["error"])
            return
        del self.expected[key]
        self.expected[answer["result"]] = {"n": self.number}

    def use_all(self, client: Client) -> None:
        """Let each session be stored once, as `previous` may go only then."""
        for key in sorted(self.expected):
            self.check(client, key)
            self.write(client, key)


@pytest.mark.parametrize(("former", "engine"), CHANGES, ids=[f"{a} to {b}" for a, b in CHANGES])
def test_a_change_of_the_engine_loses_no_session_and_brings_none_back(store: Store, former: str, engine: str) -> None:
    (old,) = store.clients(former, 1)
    one, two = (Bridged(store, engine, former, name) for name in ("one", "two"))
    sessions = Sessions(1, can_end=COOKIES not in (former, engine))
    sessions.work(old)
    sessions.work(old, one.client, two.client)
    sessions.work(one.set(BOTH), two.client)
    sessions.work(one.client, two.set(BOTH))
    sessions.work(one.set(MOVE), two.client)
    sessions.work(one.client, two.set(MOVE))
    sessions.use_all(one.client)
    (new,) = store.clients(engine, 1)
    sessions.work(new, one.client)
    sessions.work(new)
    print(f"{former} to {engine}: {len(sessions.wrong)} of {sessions.checked} reads wrong")
    assert sessions.wrong == []


@pytest.mark.parametrize(("former", "engine"), CHANGES, ids=[f"{a} to {b}" for a, b in CHANGES])
def test_a_change_that_is_taken_back_half_way_loses_no_session(store: Store, former: str, engine: str) -> None:
    (old,) = store.clients(former, 1)
    one, back = Bridged(store, engine, former, "one"), Bridged(store, former, engine, "back")
    sessions = Sessions(2, can_end=COOKIES not in (former, engine))
    # Before all knew both: the former release goes on by itself.
    sessions.work(old, one.client)
    sessions.work(old)
    # After sessions were moved: what takes it back reads both, beside those that do not know of it yet.
    sessions.work(one.set(BOTH))
    sessions.work(one.set(MOVE))
    sessions.work(one.client, back.set(BOTH))
    sessions.work(one.set(BOTH), back.client)
    sessions.work(back.set(MOVE))
    sessions.use_all(back.client)
    sessions.work(old, back.client)
    sessions.work(old)
    print(f"{former} to {engine} and back: {len(sessions.wrong)} of {sessions.checked} reads wrong")
    assert sessions.wrong == []


@pytest.mark.parametrize(("former", "engine"), [("db", "cache"), ("cache", "file"), ("file", "cached_db")])
def test_without_stages_sessions_would_be_lost_beside_the_former_release(
    store: Store, former: str, engine: str
) -> None:
    """The saboteur: it moves sessions while a process lives that would not find them."""
    (old,) = store.clients(former, 1)
    one = Bridged(store, engine, former, "one")
    sessions = Sessions(1, can_end=False)
    sessions.work(old)
    sessions.work(old, one.set(MOVE))
    assert sessions.wrong != []


def test_without_previous_every_session_would_be_lost(store: Store) -> None:
    """The other saboteur."""
    (old,), (new,) = store.clients("cache", 1), store.clients("file", 1)
    keys = [old("create", n=number) for number in range(10)]
    assert [new("read", key) for key in keys] == [{}] * 10


# --- the stages


def said(engine: str, previous: str = "", stage: str = "") -> dict[str, Any]:
    return {"engine": engine, "previous": previous, "stage": stage}


@pytest.mark.parametrize(
    ("others", "stage"),
    [
        ([], MOVE),
        ([said("db")], FOLLOW),
        ([None], FOLLOW),
        ([said("cache", "db", FOLLOW)], BOTH),
        ([said("cache", "db", BOTH), said("cache", "db", MOVE)], MOVE),
        ([said("cache", "db", MOVE), said("db")], FOLLOW),
        ([said("cache")], MOVE),
        ([said("db", "cache", BOTH)], BOTH),
        ([said("file", "db", MOVE)], FOLLOW),
    ],
)
def test_a_process_goes_as_far_as_all_others_can_follow(others: list[dict[str, Any] | None], stage: str) -> None:
    assert wanted("cache", "db", others) == stage


def test_a_process_acts_before_it_says_so_and_goes_back_when_a_former_one_comes(tmp_path: Path) -> None:
    mine, theirs = InstanceLink(tmp_path, "app1"), InstanceLink(tmp_path, "app2")
    for name in (mine, theirs):
        name.directory.mkdir()
    locks = [mine.open_lock("new"), theirs.open_lock("old")]
    theirs.write_status("old", {"sessions": said("db")})
    stages = Stages(mine, "new", "cache", "db")
    stages.look()
    assert stages.path.read_text() == FOLLOW
    theirs.write_status("old", {"sessions": said("cache", "db", BOTH)})
    stages.look()
    assert (stages.path.read_text(), stages.declared) == (MOVE, FOLLOW)
    time.sleep(SETTLED)
    assert stages.look()
    assert stages.declared == MOVE
    theirs.write_status("old", {})
    assert stages.look()
    assert (stages.path.read_text(), stages.declared) == (FOLLOW, FOLLOW)
    theirs.status_file("old").unlink()
    assert None not in locks


def test_an_instance_says_when_others_use_other_memcached_nodes_and_when_all_agree(stand: Stand) -> None:
    paths = [str(stand.root / f"m{number}.sock") for number in range(2)]
    config = stand.config(sessions={"engine": "cached_db", "memcached": paths})
    run = stand.root / "r"
    theirs = InstanceLink(run, "app2")
    theirs.directory.mkdir(parents=True)
    lock = theirs.open_lock("old")
    instance = Instance("app1", config, run)
    instance.name.directory.mkdir()
    everybody = nodes.of_all(paths)
    generations = [nodes.state(path).get(nodes.GENERATION) for path in paths]
    for other, split in (([*paths, "third"], 1), (paths, 0)):
        theirs.write_status("old", {"sessions": {**said("cached_db"), "memcached": other}})
        instance.sessions.next_look = 0.0
        instance._look_at_sessions()
        assert everybody.get(nodes.SPLIT) == split
    assert lock is not None
    os.close(lock)
    found = [nodes.state(path).get(nodes.GENERATION) for path in paths]
    assert all(new > old for new, old in zip(found, generations, strict=True)), "what was stored before may be old"


@pytest.mark.parametrize(
    ("previous", "begins_anew"), [("cache", True), ("file", True), ("signed_cookies", True), ("db", False), ("", False)]
)
def test_where_sessions_come_to_cached_db_memcached_has_nothing_from_an_earlier_time(
    stand: Stand, previous: str, begins_anew: bool
) -> None:
    """What was only read then may have been written or logged out elsewhere since."""
    paths = [str(stand.root / f"m{number}.sock") for number in range(2)]
    sessions = {"engine": "cached_db", "previous": previous, "memcached": paths, "path": str(stand.root / "sessions")}
    generations = [nodes.state(path).get(nodes.GENERATION) for path in paths]
    stand.serving(sessions=sessions)
    found = [nodes.state(path).get(nodes.GENERATION) for path in paths]
    assert [new > old for new, old in zip(found, generations, strict=True)] == [begins_anew] * 2
