"""Sessions on every engine, over several processes, with a real memcached that dies, hangs and lies."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings
from django.test import override_settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cluster_runtime.config import Sessions
from cluster_runtime.sessions import ENGINES, WRITE_TIMEOUT, nodes, settings_for
from cluster_runtime.sessions.connection import PAUSE
from tests.runtime.memcached import Memcached
from tests.runtime.standing import ROOT, SECRET_KEY, Stand, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster_runtime.sessions.memcached import SessionCache

SESSIONS = """
SECRET_KEY = "the-project's-own"
INSTALLED_APPS = ["django.contrib.sessions"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
"""

#: A serializer of a project's own, for values that JSON has no word for.
SERIALIZER = """
import json
from datetime import date
class Serializer:
    def dumps(self, value):
        return json.dumps(value, default=lambda day: {"day": day.isoformat()}).encode()
    def loads(self, data):
        return json.loads(data, object_hook=lambda o: o["day"] + "!" if "day" in o else o)
"""


@functools.cache
def _clients() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start what forks for each client, and return how it is told to, and itself; it ends with this process."""
    control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other:
        program = [sys.executable, "-m", "tests.runtime.session_client", str(other.fileno())]
        process = subprocess.Popen(
            program,
            env={"PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}", "PYTHONDONTWRITEBYTECODE": "1"},
            pass_fds=[other.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    return control, process


class Client:
    """A process that keeps sessions: a fork of `tests.runtime.session_client`, which has imported Django."""

    def __init__(self, stand: Stand, config: Path, environment: dict[str, str] | None = None) -> None:
        mine, other = socket.socketpair()
        with other:
            message = json.dumps({**stand.environment(config), **(environment or {})}).encode()
            socket.send_fds(_clients()[0], [message], [other.fileno()])
        self.stream = mine.makefile("rw")
        mine.close()
        self.pid = int(self.stream.readline())

    def answer(self, what: str, key: str | None = None, **values: Any) -> dict[str, Any]:
        print(json.dumps({"what": what, "key": key, **values}), file=self.stream, flush=True)
        found: dict[str, Any] = json.loads(self.stream.readline())
        return found

    def __call__(self, what: str, key: str | None = None, **values: Any) -> Any:
        answer = self.answer(what, key, **values)
        assert "error" not in answer, answer
        return answer["result"]

    def close(self) -> None:
        """Kill it, and wait for its end: nobody else holds the other end of the stream."""
        os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ConnectionResetError):
            self.stream.read()
        self.stream.close()


class Store:
    """A stand whose sessions some processes keep in one engine."""

    def __init__(self, stand: Stand, stack: ExitStack) -> None:
        self.stand = stand
        self.stack = stack
        self.nodes: list[Memcached] = []
        self.configs = 0
        stand.write({"mini/settings.py": SESSIONS, "mini/serializer.py": SERIALIZER})

    def clients(
        self,
        engine: str,
        count: int = 2,
        *,
        nodes: int = 2,
        previous: str = "",
        environment: dict[str, str] | None = None,
    ) -> list[Client]:
        if {engine, previous} & {"cache", "cached_db"} and not self.nodes:
            for number in range(nodes):
                node = Memcached(self.stand.root / f"m{number}")
                self.stack.callback(node.kill)
                self.nodes.append(node)
        files = self.stand.root / "sessions"
        files.mkdir(exist_ok=True)
        paths = [str(node.path) for node in self.nodes]
        self.configs += 1
        config = self.stand.config(
            f"r{self.configs}",
            sessions={"engine": engine, "previous": previous, "memcached": paths, "path": str(files)},
            database={"engine": "sqlite", "path": str(self.stand.root / "db.sqlite3")},
        )
        clients = [Client(self.stand, config, environment) for _number in range(count)]
        for client in clients:
            self.stack.callback(client.close)
        if {engine, previous} & {"db", "cached_db"}:
            clients[0]("migrate")
        return clients


@pytest.fixture
def store(stand: Stand) -> Iterator[Store]:
    with ExitStack() as stack:
        yield Store(stand, stack)


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_a_session_is_the_same_in_every_process(store: Store, engine: str) -> None:
    one, two = store.clients(engine)
    key = one("create", colour="blue")
    assert two("read", key) == {"colour": "blue"}
    key = two("write", key, colour="red", size=1)
    assert one("read", key) == {"colour": "red", "size": 1}
    if engine != "signed_cookies":
        two("delete", key)
        assert one("read", key) == {}


@pytest.mark.parametrize("engine", ["db", "cached_db", "cache"])
def test_a_session_ends_when_its_time_is_over(store: Store, engine: str) -> None:
    one, two = store.clients(engine)
    key = one("age", one("create", colour="green"), seconds=5)
    assert two("read", key)["colour"] == "green"
    wait_until(lambda: "colour" not in two("read", key), "over")


def test_a_node_that_dies_is_a_miss_that_the_database_answers_quickly(store: Store) -> None:
    one, two = store.clients("cached_db")
    keys = [one("create", number=number) for number in range(20)]
    for key in keys:
        two("read", key)
    store.nodes[0].kill()
    answers = [two.answer("read", key) for key in keys]
    assert [answer.get("result") for answer in answers] == [{"number": number} for number in range(20)]
    assert sorted(answer["seconds"] for answer in answers)[10] < 0.1
    assert max(answer["seconds"] for answer in answers) < 1.0
    for number, key in enumerate(keys):
        one("write", key, number=number + 100)
    store.nodes[0].start()
    assert [two("read", key)["number"] for key in keys] == list(range(100, 120))


def test_a_node_that_hangs_costs_one_wait_and_not_one_for_each_request(store: Store) -> None:
    (client,) = store.clients("cached_db", 1, nodes=1)
    key = client("create", colour="blue")
    store.nodes[0].stop()
    answers = [client.answer("read", key) for _number in range(10)]
    assert all(answer.get("result") == {"colour": "blue"} for answer in answers)
    slow = [answer["seconds"] for answer in answers if answer["seconds"] > 0.4]
    assert len(slow) <= 2
    store.nodes[0].go_on()
    time.sleep(1.1)
    assert client("read", key) == {"colour": "blue"}


def stale_reads(store: Store, engine: str, *, sabotaged: bool) -> list[Any]:
    """Write sessions while a node is stopped, let it go on, and return what another process reads that is old."""
    one, two = store.clients(engine, nodes=1 if engine == "cached_db" else 2)
    if sabotaged:
        one("sabotage")
        two("sabotage")
    keys = [one("create", version=0) for _number in range(8)]
    gone = [one("create", version=0) for _number in range(8)]
    for key in [*keys, *gone]:
        assert two("read", key) == {"version": 0}
    store.nodes[0].stop()
    for key in keys:
        one("write", key, version=1)
    for key in gone:
        one("delete", key)
    # What was sent to the stopped node is lost with its connections: it is as if it had never been sent.
    store.nodes[0].go_on()
    time.sleep(1.1)
    found = [two("read", key) for key in keys]
    stale = [session for session in found if session != {"version": 1}]
    stale += ["a deleted session" for key in gone if two("read", key) != {}]
    return stale


@pytest.mark.parametrize("engine", ["cached_db", "cache"])
def test_no_session_is_stale_after_its_node_hung_while_it_was_written(store: Store, engine: str) -> None:
    assert stale_reads(store, engine, sabotaged=False) == []


@pytest.mark.parametrize("engine", ["cached_db", "cache"])
def test_with_a_node_trusted_that_missed_a_write_a_session_is_stale_after_it_hung(store: Store, engine: str) -> None:
    """The saboteur of the test before."""
    assert stale_reads(store, engine, sabotaged=True)


def test_two_nodes_that_stand_still_for_a_moment_end_no_session(store: Store) -> None:
    """Each misses what the other one still took: neither may be given up for that."""
    clients = store.clients("cache", 4)
    keys = [clients[0]("create", n=number) for number in range(100)]
    with ThreadPoolExecutor(4) as pool:
        for node in store.nodes:
            node.stop()
        writes = [
            pool.submit(lambda client, mine: [client.answer("write", key, more=1) for key in mine], client, keys[n::4])
            for n, client in enumerate(clients)
        ]
        for node in store.nodes:
            time.sleep(0.4)
            node.go_on()
        missed = sum("error" in answer for done in writes for answer in done.result())
    time.sleep(1.2)
    found = [client("read", key).get("n") for client in clients for key in keys]
    lost = sum(one != number for one, number in zip(found, list(range(100)) * 4, strict=True))
    print(f"two nodes stood still: {lost} of 400 sessions lost, {missed} of 100 writes failed")
    assert lost == 0


def lost_with_a_node(store: Store, *, sabotaged: bool) -> list[Any]:
    """Kill one of two nodes, use all sessions, let it come back empty, kill the other; return what is not as stored."""
    one, two = store.clients("cache")
    for client in (one, two) if sabotaged else ():
        client("one copy")
    keys = [one("create", n=number) for number in range(20)]
    first, second = store.nodes
    first.kill()
    lost = [number for number, key in enumerate(keys) if two.answer("read", key).get("result") != {"n": number}]
    for number, key in enumerate(keys[:10]):
        two.answer("write", key, n=number + 100)
    expected = [number + 100 if number < 10 else number for number in range(20)]
    first.start()
    time.sleep(1.1)  # nobody asks it before
    for client in (one, two):
        found = [client.answer("read", key).get("result") for key in keys]
        lost += [number for number, one in enumerate(found) if one != {"n": expected[number]}]
    wait_until(lambda: not nodes.state(str(first.path)).get(nodes.DOUBT), "filled again")
    second.kill()
    for client in (two, one):
        found = [client.answer("read", key).get("result") for key in keys]
        lost += [number for number, one in enumerate(found) if one != {"n": expected[number]}]
    return lost


def test_with_two_nodes_the_death_of_each_in_turn_loses_no_session(store: Store) -> None:
    assert lost_with_a_node(store, sabotaged=False) == []


def test_with_one_copy_of_each_session_the_death_of_a_node_loses_some(store: Store) -> None:
    """The saboteur of the test before."""
    assert lost_with_a_node(store, sabotaged=True)


def test_of_two_nodes_one_that_hangs_costs_one_wait_and_leaves_nothing_old(store: Store) -> None:
    one, two = store.clients("cache")
    keys = [one("create", n=0) for _number in range(20)]
    store.nodes[0].stop()
    began = time.monotonic()
    answers = [one.answer("write", key, n=1) for key in keys] + [two.answer("read", key) for key in keys]
    assert all("error" not in answer for answer in answers)
    # A node that does not answer is tried again after a pause: on a slow machine a few times more. All would be 40.
    waits = sum(answer["seconds"] >= WRITE_TIMEOUT for answer in answers)
    assert waits <= 4 + (time.monotonic() - began) / (PAUSE + WRITE_TIMEOUT)
    store.nodes[0].go_on()
    time.sleep(1.1)
    assert [two("read", key) for key in keys] == [{"n": 1}] * 20
    one("delete", keys[0])
    assert two("read", keys[0]) == {}


def test_a_node_that_dies_is_said_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    from cluster_runtime.sessions.connection import Node  # noqa: PLC0415 - after the settings

    store.clients("cache", 0)
    node = Node(str(store.nodes[0].path), connect_timeout=1, timeout=1)
    node.read("get", "a")
    store.nodes[0].kill()
    for _number in range(5):
        with contextlib.suppress(OSError):
            node.read("get", "a")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    store.nodes[0].start()
    time.sleep(1.1)
    node.read("get", "a")
    assert "answers again" in caplog.text


@pytest.mark.parametrize("answer", [b"", b"BUSY currently processing crawler request\r\n", b"key=a exp=0\r\n"])
def test_a_node_that_does_not_list_its_keys_to_the_end_is_an_error(tmp_path: Path, answer: bytes) -> None:
    from pymemcache.exceptions import MemcacheError  # noqa: PLC0415

    from cluster_runtime.sessions.connection import Node  # noqa: PLC0415 - after the settings

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "m"))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(serve)
            with pytest.raises(MemcacheError, match="does not list its keys"):
                Node(str(tmp_path / "m"), connect_timeout=1, timeout=1).held()


def test_while_no_node_answers_a_session_is_not_taken_for_none(store: Store) -> None:
    """Django's own engine would answer with an empty session, and the middleware would log the user out."""
    (client,) = store.clients("cache", 1)
    key = client("create", colour="blue")
    for node in store.nodes:
        node.kill()
    assert "error" in client.answer("read", key)


def test_a_session_in_a_file_is_its_users_alone_and_whole(store: Store) -> None:
    one, two = store.clients("file")
    key = one("create", colour="blue")
    directory = store.stand.root / "sessions"

    def sessions() -> list[str]:
        from cluster_runtime.sessions.file import LOCK  # noqa: PLC0415 - after the settings

        return [path.name for path in directory.iterdir() if not path.name.startswith(LOCK)]

    (name,) = sessions()
    file = directory / name
    assert file.stat().st_mode & 0o777 == 0o600
    for size in (10, 100_000, 1):
        two("write", key, colour="x" * size)
        assert one("read", key) == {"colour": "x" * size}
    assert sessions() == [name], "an unfinished file is left"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("key", ["../../etc/passwd", "a/b/c/d/e", "", "x" * 300, "\x00aaaaaaaaaaaaa", "éééééééé"])
def test_a_key_that_is_no_key_is_no_session_and_is_asked_of_no_store(store: Store, key: str) -> None:
    for engine, previous in (("file", ""), ("cache", ""), ("db", ""), ("cached_db", ""), ("db", "cache")):
        (client,) = store.clients(engine, 1, previous=previous)
        assert client("read", key) == {}
        assert client("key", key) is None, engine


def test_sessions_in_files_that_are_over_are_cleared_and_no_other(store: Store) -> None:
    one, two = store.clients("file")
    stays = one("create", colour="blue")
    gone = [one("age", one("create", colour="red"), seconds=1) for _number in range(3)]
    directory = store.stand.root / "sessions"
    old = directory / ".new-killed"
    old.write_text("half")
    os.utime(old, (1, 1))
    (directory / ".new-now").write_text("half")
    time.sleep(1.1)
    assert [two("read", key) for key in gone] == [{}] * 3
    two("clear")
    found = sorted(path.name for path in directory.iterdir() if not path.name.startswith(".lock-"))
    assert found == [".new-now", f"sessionid{stays}"]


def test_a_session_too_large_for_a_cookie_is_an_error_that_says_so(store: Store) -> None:
    (client,) = store.clients("signed_cookies", 1)
    noise = "".join(hashlib.sha256(str(number).encode()).hexdigest() for number in range(200))
    error = client.answer("create", noise=noise)["error"]
    assert "browsers drop those of more than 4093" in error
    assert client("read", client("create", noise=noise[:2000])) == {"noise": noise[:2000]}


def test_a_session_too_large_for_memcached_alone_is_an_error_and_logs_nobody_out(store: Store) -> None:
    one, two = store.clients("cache")
    key = one("create", size="small")
    assert "too large" in one.answer("write", key, size="x" * 2_000_000)["error"]
    assert two("read", key) == {"size": "small"}
    assert sum(nodes.state(str(node.path)).get(nodes.TOO_LARGE) for node in store.nodes) == 1


def test_a_session_too_large_for_memcached_is_read_from_the_database(store: Store) -> None:
    one, two = store.clients("cached_db")
    key = one("create", size="small")
    one("write", key, size="x" * 2_000_000)
    assert two("read", key) == {"size": "x" * 2_000_000}


def test_a_session_whose_row_is_deleted_has_ended(store: Store) -> None:
    one, two = store.clients("cached_db")
    keys = [one("create", number=number) for number in range(20)]
    assert [two("read", key) for key in keys] == [{"number": number} for number in range(20)]
    assert one("delete rows", keys[0]) == 1
    assert two("read", keys[0]) == {}
    assert one("delete rows") == 19
    assert [two("read", key) for key in keys] == [{}] * 20


def test_without_what_listens_to_deletions_a_deleted_session_lives_on(store: Store) -> None:
    one, two = store.clients("cached_db")
    key = one("create", colour="blue")
    assert one("deaf")
    assert one("delete rows") == 1
    assert two("read", key) == {"colour": "blue"}


def test_a_session_that_the_database_has_lost_is_refused_once_and_not_for_ever(store: Store) -> None:
    one, two = store.clients("cached_db")
    key = one("create", colour="blue")
    assert one("deaf")
    assert one("delete rows") == 1
    assert two("read", key) == {"colour": "blue"}, "memcached has it still"
    assert "UpdateError" in two.answer("write", key, colour="red")["error"]
    assert (one("read", key), two("read", key)) == ({}, {})
    assert two("write", key, colour="red") != key, "its user has a new one"


def test_sessions_that_are_over_go_without_a_word_to_memcached(store: Store) -> None:
    one, two = store.clients("cached_db")
    lasting, ending = one("create", colour="blue"), one("create", colour="red")
    one("age", ending, seconds=-1)
    one("clear")
    assert one("delete rows") == 1, "the one that is over was there no more"
    assert (two("read", lasting), two("read", ending)) == ({}, {})


def test_what_was_read_from_the_database_does_not_replace_what_is_newer(cache: SessionCache) -> None:
    cache.clear()

    def slow(meanwhile: Any) -> Any:
        def load() -> tuple[str, int]:
            meanwhile()
            return "old", 100

        return load

    assert cache.fill("a", slow(lambda: cache.set("a", "new"))) == "old"
    assert cache.get("a") == "new"
    assert cache.fill("b", slow(lambda: cache.delete("b"))) == "old"
    assert cache.get("b") is None, "a session that was logged out would be back"
    assert cache.fill("b", slow(lambda: None)) == "old"
    assert cache.get("b") is None, "what was read before a deletion must not be stored after it"
    assert cache.fill("c", slow(lambda: None)) == "old"
    assert cache.get("c") == "old"
    assert cache.fill("d", lambda: None) is None


def test_a_failed_write_to_the_only_store_is_an_error_and_not_a_lost_session(store: Store) -> None:
    one, two = store.clients("cache", nodes=1)
    key = one("create", colour="blue")
    assert two("read", key) == {"colour": "blue"}
    store.nodes[0].kill()
    for client in (one, two):
        assert "error" in client.answer("write", key, colour="red")
        assert "error" in client.answer("create", colour="red")


def test_sessions_may_hold_what_the_projects_serializer_can_store(store: Store) -> None:
    """With plain JSON the write to memcached would fail after the one to the database, and leave a stale session."""
    text = SESSIONS + 'SESSION_SERIALIZER = "mini.serializer.Serializer"\n'
    store.stand.write({"mini/settings.py": text})
    one, two = store.clients("cached_db", nodes=1)
    key = one("create", when={"day": "today"})
    assert two("read", key) == {"when": "today!"}


def test_threads_of_one_process_do_not_read_each_others_sessions(cache: SessionCache) -> None:
    from cluster_runtime.sessions.memcached import SessionCache  # noqa: PLC0415 - after the settings

    barrier = threading.Barrier(6)
    paths = [f"unix:{node.path}" for node in cache.nodes]

    def work(number: int) -> int:
        mine = SessionCache(paths, {"OPTIONS": OPTIONS})
        barrier.wait(30)
        wrong = 0
        for count in range(100):
            mine.set(f"key-{number}", [number, count])
            wrong += mine.get(f"key-{number}") != [number, count]
        return wrong

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(work, range(6))) == 0


# --- the cache by itself: what it answers when memcached holds what it did not write

OPTIONS = {"connect_timeout": 1.0, "timeout": 5.0, "durable": True}


@pytest.fixture(scope="module")
def node() -> Iterator[Memcached]:
    stand = Stand()
    node = Memcached(stand.root / "m")
    yield node
    node.kill()
    stand.close()


@pytest.fixture(scope="module")
def cache(node: Memcached) -> Iterator[SessionCache]:
    if not settings.configured:
        settings.configure(SECRET_KEY=SECRET_KEY)
    with override_settings(SECRET_KEY=SECRET_KEY, SECRET_KEY_FALLBACKS=[]):
        from cluster_runtime.sessions.memcached import SessionCache  # noqa: PLC0415 - after the settings

        yield SessionCache(f"unix:{node.path}", {"OPTIONS": OPTIONS})


def put(cache: SessionCache, key: str, value: bytes) -> None:
    """Store bytes as they are, as somebody would who reaches the node's socket."""
    from pymemcache.client.base import Client as Raw  # noqa: PLC0415

    ((node, place),) = cache._places(key, None)
    with contextlib.closing(Raw(node.path)) as client:
        client.set(place, value, noreply=False)


def raw(cache: SessionCache, key: str) -> bytes:
    """Return the stored bytes."""
    from pymemcache.client.base import Client as Raw  # noqa: PLC0415

    ((node, place),) = cache._places(key, None)
    with contextlib.closing(Raw(node.path)) as client:
        found = client.get(place)
    assert isinstance(found, bytes)
    return found


class Exploit:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.abort, ())


def test_pickled_bytes_are_a_miss_and_do_not_run(cache: SessionCache) -> None:
    for value in (pickle.dumps({"user": 1}), pickle.dumps(Exploit())):
        put(cache, "a", value)
        assert cache.get("a") is None


def test_another_sessions_value_in_its_place_is_a_miss(cache: SessionCache) -> None:
    cache.set("mine", {"user": "admin"})
    put(cache, "yours", raw(cache, "mine"))
    assert cache.get("mine") == {"user": "admin"}
    assert cache.get("yours") is None


@given(st.data())
@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_damaged_values_are_misses_and_never_errors(cache: SessionCache, data: st.DataObject) -> None:
    cache.set("victim", {"user": 1, "name": "x" * 40})
    good = raw(cache, "victim")
    kind = data.draw(st.sampled_from(["flip", "cut", "noise", "insert"]))
    place = data.draw(st.integers(0, len(good) - 1))
    if kind == "flip":
        bad = good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :]
    elif kind == "cut":
        bad = good[:place]
    elif kind == "insert":
        bad = good[:place] + data.draw(st.binary(min_size=1, max_size=20)) + good[place:]
    else:
        bad = data.draw(st.binary(max_size=200))
    put(cache, "victim", bad)
    # The last digit of base 64 may hold bits that mean nothing: what verifies must be what was signed.
    assert cache.get("victim") in (None, {"user": 1, "name": "x" * 40})
    if kind in ("cut", "noise"):
        assert cache.get("victim") is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=8,
)


@given(
    key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300),
    value=st.dictionaries(st.text(), JSON, max_size=4),
)
@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_key_and_any_json_come_back(cache: SessionCache, key: str, value: dict[str, Any]) -> None:
    cache.set(key, value)
    assert cache.get(key) == value
    assert cache.delete(key)
    assert cache.get(key) is None


@pytest.mark.parametrize(
    ("one", "other"), [("k" * 300, "k" * 299 + "l"), ("a b", "a_b"), ("é", "e"), ("a\r\nget b", "a"), ("a\0", "a")]
)
def test_odd_keys_are_told_apart(cache: SessionCache, one: str, other: str) -> None:
    cache.set(one, "one")
    cache.set(other, "other")
    assert (cache.get(one), cache.get(other)) == ("one", "other")


def test_add_touch_and_expiry_are_as_django_has_them(cache: SessionCache) -> None:
    cache.delete("a")
    assert cache.add("a", 1)
    assert not cache.add("a", 2)
    assert cache.get("a") == 1
    assert cache.touch("a", 3600)
    cache.set("a", 2, timeout=0)
    assert cache.get("a", "gone") == "gone"
    assert not cache.touch("a", 3600)
    assert not cache.delete("a")
    cache.set("a", 3, timeout=90 * 24 * 3600)  # beyond memcached's relative expiry
    assert cache.get("a") == 3
    cache.set("a", 4, timeout=None)
    assert cache.get("a") == 4
    cache.clear()
    assert cache.get("a") is None


def test_a_rotated_secret_key_keeps_sessions_while_the_old_one_is_a_fallback(cache: SessionCache) -> None:
    with override_settings(SECRET_KEY="old" * 20):
        cache.set("a", {"user": 1})
    with override_settings(SECRET_KEY="new" * 20, SECRET_KEY_FALLBACKS=["old" * 20]):
        assert cache.get("a") == {"user": 1}
    with override_settings(SECRET_KEY="new" * 20, SECRET_KEY_FALLBACKS=[]):
        assert cache.get("a") is None


def test_a_session_too_large_for_memcached_is_a_miss_and_not_the_former_one(cache: SessionCache) -> None:
    cache.set("a", {"size": "small"})
    cache.finish("a", {"size": "x" * 2_000_000}, lease=cache.begin("a"))
    assert cache.get("a") is None


def test_each_failure_begins_a_new_generation_for_everybody(node: Memcached, cache: SessionCache) -> None:
    path = str(node.path)
    seen = [nodes.state(path).get(nodes.GENERATION)]
    for _number in range(50):
        nodes.distrust(path)
        seen.append(nodes.state(path).get(nodes.GENERATION))
    assert seen == sorted(set(seen))
    cache.set("a", 1)
    nodes.distrust(path)
    assert cache.get("a") is None


def test_a_clock_that_went_back_does_not_bring_an_old_generation_back(node: Memcached, cache: SessionCache) -> None:
    path = str(node.path)
    future = time.time_ns() + 10**12
    with nodes.state(path).changing() as numbers:
        numbers[nodes.GENERATION] = future
    nodes.distrust(path)
    assert nodes.state(path).get(nodes.GENERATION) > future


def test_a_file_of_a_node_that_is_new_begins_with_a_generation_that_never_was(stand: Stand) -> None:
    """The node may hold what was distrusted before the file was lost."""
    began = time.time_ns()
    path = str(stand.root / "lost.sock")
    assert began < nodes.state(path).get(nodes.GENERATION) < time.time_ns()
    file = Path(f"{path}.state")
    assert file.stat().st_blocks, "a file system that is full later would end the process by a signal"


def test_the_projects_own_caches_stay_the_projects() -> None:
    own = {"default": {"BACKEND": "mine"}, "other": {"BACKEND": "theirs"}}
    found = settings_for(Sessions(engine="cached_db", memcached=("/m",)), own)
    assert {name: found["CACHES"][name] for name in own} == own
    assert set(found["CACHES"]) == {"default", "other", "cluster_sessions"}
    assert "CACHES" not in settings_for(Sessions(engine="db"), own)
