"""Requests of one session at the same time: what was logged out stays so, and what is moved is found."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings
from django.contrib.sessions.backends.base import UpdateError
from django.test import override_settings
from pymemcache.exceptions import MemcacheError

from cluster_runtime.config import Sessions
from cluster_runtime.sessions import LEFT_SECONDS, nodes, settings_for
from cluster_runtime.sessions.ended import ENDED, ENDED_SECONDS, MARKS_VARIABLE, forget_ended
from cluster_runtime.sessions.stage import BOTH, FOLLOW, MOVE
from tests.runtime.memcached import Memcached
from tests.runtime.standing import SECRET_KEY, Stand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ALONE = {"connect_timeout": 1.0, "timeout": 5.0, "durable": False}
BEHIND = {**ALONE, "durable": True}

#: Times that two requests of one session race each other.
ROUNDS = 200


@pytest.fixture(scope="module")
def pair() -> Iterator[list[Memcached]]:
    stand = Stand()
    found = [Memcached(stand.root / f"m{number}") for number in range(2)]
    yield found
    for node in found:
        node.kill()
    stand.close()


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    if not settings.configured:
        settings.configure(SECRET_KEY=SECRET_KEY)
    with override_settings(SECRET_KEY=SECRET_KEY, SECRET_KEY_FALLBACKS=[]):
        yield


def cache_of(pair: list[Memcached], options: dict[str, Any]) -> Any:
    from cluster_runtime.sessions.memcached import SessionCache  # noqa: PLC0415 - after the settings

    found = SessionCache([f"unix:{node.path}" for node in pair], {"OPTIONS": options})
    found.clear()
    return found


def race(*todo: Callable[[], Any]) -> None:
    """Do all at the same time; what one raises is raised."""
    barrier = threading.Barrier(len(todo))

    def begin(do: Callable[[], Any]) -> None:
        barrier.wait(10)
        do()

    with ThreadPoolExecutor(len(todo)) as pool:
        for done in [pool.submit(begin, do) for do in todo]:
            done.result()


# --- memcached with a database behind it


def test_a_session_that_is_logged_out_while_it_is_saved_is_not_left_in_memcached(pair: list[Memcached]) -> None:
    cache = cache_of(pair, BEHIND)
    lease = cache.begin("a")
    cache.delete("a")  # between the write to the database and the one to memcached
    cache.finish("a", lease=lease, value={"user": 1})
    assert cache.get("a") is None


def test_of_two_saves_at_once_memcached_keeps_none_that_the_database_may_not_have(pair: list[Memcached]) -> None:
    cache = cache_of(pair, BEHIND)
    first, second = cache.begin("a"), cache.begin("a")
    cache.finish("a", lease=first, value="first")
    cache.finish("a", lease=second, value="second")
    assert cache.get("a") is None, "nobody can say which of the two the database has"
    cache.finish("b", lease=cache.begin("b"), value="alone")
    assert cache.get("b") == "alone"


def test_a_save_after_a_read_stores_unless_somebody_has_written_or_logged_out_meanwhile(pair: list[Memcached]) -> None:
    cache = cache_of(pair, BEHIND)
    for meanwhile, left in (
        (lambda: None, "saved"),
        (lambda: cache.delete("a"), None),
        (lambda: cache.set("a", "another's"), None),
    ):
        cache.clear()
        cache.set("a", "read")
        found, token = cache.read("a")
        assert (found, token is None) == ("read", False)
        meanwhile()
        cache.finish("a", "saved", token=token)
        assert cache.get("a") == left


def test_a_session_that_is_saved_as_over_is_not_read_from_memcached(pair: list[Memcached]) -> None:
    cache = cache_of(pair, BEHIND)
    cache.set("a", "read")
    _found, token = cache.read("a")
    cache.finish("a", "over", -1, token=token)
    assert cache.get("a") is None


def test_while_a_session_is_saved_nobody_reads_the_former_one_from_memcached(pair: list[Memcached]) -> None:
    cache = cache_of(pair, BEHIND)
    cache.set("a", "former")
    cache.begin("a")
    assert cache.get("a") is None
    assert cache.fill("a", lambda: ("from the database", 100)) == "from the database"
    assert cache.get("a") is None, "what was read before the save ended would stay"


# --- memcached alone


def test_a_copy_that_is_given_to_the_other_node_does_not_bring_a_session_back(
    pair: list[Memcached], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster_runtime.sessions import compare_and_swap  # noqa: PLC0415 - after the settings

    cache = cache_of(pair, ALONE)
    cache.set("a", {"user": 1})
    first, place = cache._places("a", None)[0]
    first.write("delete", place)  # as if it had begun anew
    fill = compare_and_swap.fill

    def late(*arguments: Any) -> Any:
        cache.delete("a")  # after the copy was read, and before it is given
        return fill(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(compare_and_swap, "fill", late)
        cache.get("a")
    assert cache.get("a") is None


def test_a_save_does_not_bring_back_what_is_logged_out_at_the_same_time(pair: list[Memcached]) -> None:
    cache = cache_of(pair, ALONE)
    for number in range(ROUNDS):
        key = f"k{number}"
        assert cache.add(key, 0)
        race(lambda key=key: cache.replace(key, 1), lambda key=key: cache.delete(key))  # type: ignore[misc]
        assert cache.get(key) is None
        assert not cache.replace(key, 2)
    print(f"0 of {ROUNDS} sessions came back")


def test_a_key_of_a_deleted_session_can_be_begun_anew(pair: list[Memcached]) -> None:
    cache = cache_of(pair, ALONE)
    cache.delete("a")
    assert cache.add("a", 1)
    assert not cache.add("a", 2)
    assert cache.get("a") == 1


def test_of_two_copies_the_newer_counts_while_a_node_is_doubtful(pair: list[Memcached]) -> None:
    cache = cache_of(pair, ALONE)
    cache.set("a", "old")
    (first, place), (second, _place) = cache._places("a", None)
    kept, _token = first.read("gets", place)
    cache.set("a", "new")
    first.write("set", place, kept)
    assert cache.get("a") == "old", "a node that is trusted is asked first"
    nodes.doubt(first.path)
    assert cache.get("a") == "new"
    nodes.doubt(second.path)
    assert cache.get("a") == "new"
    assert not cache.restore()
    deadline = time.monotonic() + 10
    while not cache.restore():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not first.is_doubtful()
    assert first.read("get", place)[0] == "new"


def test_a_write_that_is_missed_while_a_node_is_filled_keeps_it_doubtful(pair: list[Memcached]) -> None:
    path = str(pair[0].path)
    nodes.doubt(path)
    since = nodes.state(path).get(nodes.DOUBT)
    nodes.doubt(path)
    assert not nodes.end_doubt(path, since)
    assert nodes.state(path).get(nodes.DOUBT)
    assert nodes.end_doubt(path, nodes.state(path).get(nodes.DOUBT))
    assert not nodes.state(path).get(nodes.DOUBT)


def test_what_is_held_are_values_and_neither_marks_nor_another_generation(pair: list[Memcached]) -> None:
    for options in (ALONE, BEHIND):
        cache = cache_of(pair, options)
        for number in range(250):
            cache.set(f"k{number}", number)
        for number in range(50):
            cache.delete(f"k{number}")
        assert len(cache.held(lambda key: ":k" in key)) == 200
        assert cache.held(lambda key: key.endswith(":k99")) == {":1:k99"}
    for path in cache.paths:
        nodes.distrust(path)
    assert cache.held(lambda _key: True) == set()


# --- another number of nodes


def test_while_instances_use_other_nodes_nothing_is_read_or_stored_and_nothing_old_is_found_after(
    pair: list[Memcached],
) -> None:
    cache = cache_of(pair, BEHIND)
    paths, more = cache.paths, [*cache.paths, f"{cache.paths[0]}-third"]
    cache.set("a", "before")
    assert not nodes.agree(paths, [paths, more])
    assert cache.get("a") is None
    assert cache.fill("a", lambda: ("from the database", 100)) == "from the database"
    cache.finish("a", lease=cache.begin("a"), value="saved")
    assert cache.get("a") is None
    assert nodes.agree(paths, [paths, [], paths])
    assert cache.get("a") is None, "it was written meanwhile by who does not know this node"
    cache.set("a", "after")
    assert nodes.agree(paths, [paths])
    assert cache.get("a") == "after"


# --- files


def test_a_save_does_not_bring_a_file_back_that_is_deleted_at_the_same_time(stand: Stand) -> None:
    files = stand.root / "sessions"
    files.mkdir()
    with override_settings(**settings_for(Sessions(engine="file", path=str(files)), None)):
        from cluster_runtime.sessions.file import SessionStore  # noqa: PLC0415 - after the settings

        for _number in range(ROUNDS):
            session = SessionStore()
            session["user"] = 1
            session.save()
            key = str(session.session_key)

            def save(session: Any = session) -> None:
                with contextlib.suppress(UpdateError):
                    session.save()

            race(save, lambda key=key: SessionStore().delete(key))  # type: ignore[misc]
            assert not SessionStore().exists(key)
    print(f"0 of {ROUNDS} sessions came back")


# --- the bridge


@contextlib.contextmanager
def bridged(stand: Stand, pair: list[Memcached], stage: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """From memcached to files, at a stage."""
    files = stand.root / "sessions"
    files.mkdir()
    memcached = tuple(str(node.path) for node in pair)
    sessions = Sessions(engine="file", previous="cache", path=str(files), memcached=memcached)
    with override_settings(**settings_for(sessions, None)):
        from cluster_runtime.sessions import bridge  # noqa: PLC0415 - after the settings

        monkeypatch.setattr(bridge, "current", lambda: stage)
        monkeypatch.setenv(MARKS_VARIABLE, str(stand.root / ENDED))
        yield bridge


def begun_in_cache(bridge: Any) -> str:
    session = bridge._class("cache")()
    session["user"] = 1
    session.save()
    return str(session.session_key)


def test_a_session_that_is_moved_between_two_looks_is_found(
    stand: Stand, pair: list[Memcached], monkeypatch: pytest.MonkeyPatch
) -> None:
    with bridged(stand, pair, MOVE, monkeypatch) as bridge:
        key = begun_in_cache(bridge)
        read = bridge._read

        def moved_after(engine: str, key: str) -> Any:
            found = read(engine, key)
            if engine == "file" and found is None:
                monkeypatch.setattr(bridge, "_read", read)
                other = bridge.SessionStore(key)
                other["seen"] = True
                other.save()
            return found

        monkeypatch.setattr(bridge, "_read", moved_after)
        session = bridge.SessionStore(key)
        assert session.get("user") == 1, "the middleware would delete the cookie"
        assert session.session_key == key


@pytest.mark.parametrize("stage", [MOVE, BOTH])
@pytest.mark.parametrize("moment", ["_exists", "_create", "_update"])
def test_a_session_that_is_logged_out_while_it_is_moved_does_not_come_back(
    stand: Stand, pair: list[Memcached], monkeypatch: pytest.MonkeyPatch, stage: str, moment: str
) -> None:
    """Another request logs out after each of the steps of a save."""
    for step in range(1, 5):
        with contextlib.ExitStack() as stack:
            fresh = stack.enter_context(contextlib.closing(Stand()))
            bridge = stack.enter_context(bridged(fresh, pair, stage, monkeypatch))
            key = begun_in_cache(bridge)
            original = getattr(bridge, moment)
            count = 0

            def interrupted(*arguments: Any, original: Any = original, step: int = step, key: str = key) -> Any:
                nonlocal count
                count += 1
                found = original(*arguments)
                if count == step:
                    monkeypatch.setattr(bridge, moment, original)  # noqa: B023 - called in this round
                    bridge.SessionStore(key).delete()  # noqa: B023 - as above
                return found

            session = bridge.SessionStore(key)
            session["seen"] = step
            monkeypatch.setattr(bridge, moment, interrupted)
            with contextlib.suppress(UpdateError):
                session.save()
            monkeypatch.setattr(bridge, moment, original)
            if count >= step:
                assert not bridge.SessionStore().exists(key), (stage, moment, step)
                assert not bridge._exists("cache", key), (stage, moment, step)


def test_marks_of_ended_sessions_are_forgotten_after_a_while(
    stand: Stand, pair: list[Memcached], monkeypatch: pytest.MonkeyPatch
) -> None:
    with bridged(stand, pair, MOVE, monkeypatch) as bridge:
        keys = [begun_in_cache(bridge) for _number in range(2)]
        for key in keys:
            bridge.SessionStore(key).delete()
        marks = sorted((stand.root / ENDED).iterdir())
        assert len(marks) == 2
        old = time.time() - ENDED_SECONDS - 1
        os.utime(marks[0], (old, old))
        forget_ended(stand.root / ENDED)
        assert list((stand.root / ENDED).iterdir()) == marks[1:]


def test_without_the_mark_a_session_that_is_logged_out_while_it_is_moved_comes_back(
    stand: Stand, pair: list[Memcached], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The saboteur of the tests before."""
    with bridged(stand, pair, MOVE, monkeypatch) as bridge:
        key = begun_in_cache(bridge)
        exists = bridge._exists

        def ended_after(engine: str, key: str) -> bool:
            found: bool = exists(engine, key)
            monkeypatch.setattr(bridge, "_exists", exists)
            bridge.SessionStore(key).delete()
            return found

        session = bridge.SessionStore(key)
        session["seen"] = True
        monkeypatch.setattr(bridge, "is_ended", lambda _key: False)
        monkeypatch.setattr(bridge, "_exists", ended_after)
        session.save()
        assert bridge.SessionStore().exists(key)


@pytest.mark.parametrize("stages", [(MOVE, MOVE), (BOTH, MOVE), (BOTH, BOTH), (FOLLOW, BOTH), (FOLLOW, FOLLOW)])
def test_saves_of_one_session_at_once_move_it_and_lose_it_not(
    stand: Stand, pair: list[Memcached], monkeypatch: pytest.MonkeyPatch, stages: tuple[str, str]
) -> None:
    with bridged(stand, pair, MOVE, monkeypatch) as bridge:
        assert saved_at_once(bridge, stages, monkeypatch) == 0
    print(f"{' beside '.join(stages)}: 0 of {ROUNDS} sessions lost")


def test_where_a_session_that_the_new_engine_lacks_is_taken_for_one_that_was_ended_it_is_lost(
    stand: Stand, pair: list[Memcached], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The saboteur: an instance in FOLLOW leaves nothing in the new engine."""
    with bridged(stand, pair, MOVE, monkeypatch) as bridge:
        monkeypatch.setattr(bridge, "is_ended", lambda key: not bridge._exists("file", key))
        assert saved_at_once(bridge, (FOLLOW, BOTH), monkeypatch) > 0


def saved_at_once(bridge: Any, stages: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Let two processes, each at a stage, save sessions at the same time; return how many of ROUNDS were lost."""
    acting, lost = threading.local(), 0
    monkeypatch.setattr(bridge, "current", lambda: getattr(acting, "stage", MOVE))
    for number in range(ROUNDS):
        key = begun_in_cache(bridge)

        def save(stage: str, key: str = key, number: int = number) -> None:
            acting.stage = stage
            session = bridge.SessionStore(key)
            if session.get("user") == 1:
                session["seen"] = number
                with contextlib.suppress(UpdateError):
                    session.save()

        race(*(partial(save, stage) for stage in stages))
        lost += bridge.SessionStore(key).get("user") != 1
    return lost


def save_with(cache: Any, key: str, value: str, token: object) -> Callable[[], Any]:
    return partial(cache.replace, key, value, 100, token=token)


def test_saves_of_one_session_at_once_leave_both_copies_the_same(pair: list[Memcached]) -> None:
    assert different_copies(pair) == 0
    print(f"0 of {3 * ROUNDS} sessions with two different copies")


def test_where_the_newer_of_two_saves_does_not_stay_copies_differ(
    pair: list[Memcached], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The saboteur of the test before."""
    from cluster_runtime.sessions import compare_and_swap  # noqa: PLC0415 - after the settings

    monkeypatch.setattr(compare_and_swap, "written_at", lambda _found: 0)
    assert different_copies(pair) > 0


def different_copies(pair: list[Memcached]) -> int:
    """Let two or three save a session at the same time; return how often the two copies of it differ after that.

    Each has read it before, or not. The death of one node would bring the older copy back.
    """
    cache, different = cache_of(pair, ALONE), 0
    for reads, savers in ((False, 2), (True, 3), (False, 3)):
        for number in range(ROUNDS):
            key = f"{reads}{savers}{number}"
            cache.set(key, "first", 100)
            tokens = [cache.read(key)[1] if reads else None for _saver in range(savers)]
            values = [f"of {saver}" for saver in range(savers)]
            race(*map(partial(save_with, cache, key), values, tokens))
            copies = [node.read("get", place)[0] for node, place in cache._places(key, None)]
            assert "first" not in copies
            different += copies[0] != copies[1]
    return different


def test_a_session_that_was_moved_into_a_cookie_ends_soon_where_it_was(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that began with the former cookie find it as it was, and it is counted no more."""
    files = stand.root / "sessions"
    files.mkdir()
    sessions = Sessions(engine="signed_cookies", previous="file", path=str(files), memcached=())
    with override_settings(**settings_for(sessions, None)):
        from cluster_runtime.sessions import bridge, report  # noqa: PLC0415 - after the settings

        monkeypatch.setattr(bridge, "current", lambda: BOTH)
        monkeypatch.setenv(MARKS_VARIABLE, str(stand.root / ENDED))

        def begun(seconds: int | None) -> str:
            session = bridge._class("file")()
            session["user"] = 1
            session.set_expiry(seconds)
            session.save()
            return str(session.session_key)

        def left() -> Any:
            return report._files()["count"]

        usual, long, short = (begun(seconds) for seconds in (None, 30 * 24 * 3600, 60))
        assert left() == 3
        for count, key in ((2, usual), (1, long), (0, short)):
            session = bridge.SessionStore(key)
            session["seen"] = True
            session.save()
            assert bridge.is_cookie(session.session_key)
            assert left() == count
            again = bridge.SessionStore(key)
            assert again.get("user") == 1
            assert again.get_expiry_age() == session.get_expiry_age(), "what is on its way would end soon"
            assert bridge.MOVED not in again
        assert [bridge._class("file")(key).get_expiry_age() for key in (usual, long, short)] == [
            LEFT_SECONDS,
            LEFT_SECONDS,
            60,
        ]


# --- connections


def test_connections_are_the_process_s_and_not_each_cache_objects(pair: list[Memcached]) -> None:
    """Under ASGI Django makes the cache anew for each request."""
    first = cache_of(pair, ALONE)
    before = int(first.nodes[0].read("stats")[b"curr_connections"])
    for number in range(50):
        cache = cache_of(pair, ALONE)
        cache.set(f"k{number}", number)
        assert cache.get(f"k{number}") == number
    assert int(first.nodes[0].read("stats")[b"curr_connections"]) <= before + 1


def test_a_node_that_closes_within_its_answer_is_a_failure_like_any_other(tmp_path: Path) -> None:
    from cluster_runtime.sessions.connection import Node  # noqa: PLC0415 - after the settings

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "m"))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"VALUE a 1 100\r\nhalf")

        with ThreadPoolExecutor(1) as pool:
            pool.submit(serve)
            with pytest.raises((OSError, MemcacheError)):
                Node(str(tmp_path / "m"), connect_timeout=1, timeout=1).read("get", "a")


# --- cookies


class Request:
    """What the middleware asks of a request."""

    def __init__(self, *, secure: bool) -> None:
        self.secure = secure

    def is_secure(self) -> bool:
        return self.secure


@pytest.mark.parametrize("secure", [True, False])
def test_the_cookies_of_who_came_over_tls_go_over_tls_only(secure: bool) -> None:
    from django.http import HttpResponse  # noqa: PLC0415 - after the settings

    from cluster_runtime.cookies import secure_cookies  # noqa: PLC0415

    def view(_request: Any) -> HttpResponse:
        response = HttpResponse("x")
        for name in ("sessionid", "csrftoken", "taste"):
            response.set_cookie(name, "y")
        return response

    response = secure_cookies(view)(Request(secure=secure))  # type: ignore[arg-type]
    marked = {name for name, cookie in response.cookies.items() if cookie["secure"]}
    assert marked == ({"sessionid", "csrftoken"} if secure else set())
