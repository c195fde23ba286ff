"""Names are links that move by one rename(2)."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster_runtime.checks import Unhealthy
from cluster_runtime.handover import serve, serve_all
from cluster_runtime.instance import main
from cluster_runtime.instance_link import LONGEST_SOCKET_PATH, InstanceLink
from tests.runtime.standing import PATIENCE, ROOT, Stand

if TYPE_CHECKING:
    from collections.abc import Iterator

TAKE = """
import sys
from cluster_runtime.instance_link import InstanceLink
name = InstanceLink(sys.argv[1], "app1")
sys.stdin.readline()
print(sys.argv[2] if name.take_if_free(sys.argv[2]) else "")
"""


@pytest.fixture
def name() -> Iterator[InstanceLink]:
    root = Path(tempfile.mkdtemp(prefix="rt"))
    found = InstanceLink(root, "app1")
    found.directory.mkdir()
    yield found
    shutil.rmtree(root)


@contextmanager
def listening(name: InstanceLink, release: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(name.socket(release)))
        listener.listen(64)
        yield listener
    name.socket(release).unlink()


def accept_all(listener: socket.socket) -> None:
    """Accept connections until the listener is shut down."""
    with suppress(OSError):
        while True:
            listener.accept()[0].close()


def test_a_name_that_nobody_took_has_no_holder(name: InstanceLink) -> None:
    assert name.holder() is None
    assert not name.give_up("one")


def test_the_link_is_relative_so_that_the_directory_can_be_mounted_elsewhere(name: InstanceLink) -> None:
    name.take("one")
    assert name.link.readlink() == Path("one.sock")


def test_take_says_who_held_the_name_before(name: InstanceLink) -> None:
    assert name.take("one") is None
    assert name.take("two") == "one"
    assert name.holder() == "two"


def test_a_release_may_have_dots_in_its_name(name: InstanceLink) -> None:
    name.take("v1.2.sock.3")
    assert name.holder() == "v1.2.sock.3"
    with listening(name, "v1.2.sock.3"):
        assert not name.take_if_free("two")


def test_a_reader_never_finds_the_name_missing_while_it_is_taken_over(name: InstanceLink) -> None:
    ends = threading.Event()
    seen: Counter[str | None] = Counter()
    refused = []

    def read() -> None:
        while not ends.is_set():
            seen[name.holder()] += 1
            with socket.socket(socket.AF_UNIX) as client:
                try:
                    client.connect(str(name.link))
                except OSError as error:
                    refused.append(error)

    with listening(name, "one") as one, listening(name, "two") as two:
        name.take("one")
        threads = [
            threading.Thread(target=read),
            *(threading.Thread(target=accept_all, args=(listener,)) for listener in (one, two)),
        ]
        for thread in threads:
            thread.start()
        for _number in range(1000):
            name.take("two")
            name.take("one")
        ends.set()
        threads[0].join(PATIENCE)
        for listener in (one, two):
            listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(PATIENCE)
    assert refused == []
    assert set(seen) == {"one", "two"}
    assert seen.total() > 100


def test_a_link_that_is_removed_before_it_is_made_again_is_found_missing(name: InstanceLink) -> None:
    """The saboteur of the test before: the same reader notices a name that is not renamed."""
    ends = threading.Event()
    missing = []

    def read() -> None:
        while not ends.is_set():
            if name.holder() is None:
                missing.append(1)

    name.take("one")
    reader = threading.Thread(target=read)
    reader.start()
    for release in ["two", "one"] * 5000:
        name.link.unlink()
        name.link.symlink_to(f"{release}.sock")
        if missing:
            break
    ends.set()
    reader.join(PATIENCE)
    assert missing


def test_a_name_that_a_living_process_holds_is_not_free(name: InstanceLink) -> None:
    with listening(name, "one"):
        name.take("one")
        assert not name.take_if_free("two")
        assert name.holder() == "one"


def test_a_name_is_free_for_the_one_who_holds_it_already(name: InstanceLink) -> None:
    name.take("one")
    assert name.take_if_free("one")


def test_a_busy_holder_whose_backlog_is_full_is_alive(name: InstanceLink) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(name.socket("one")))
        listener.listen(0)
        for _number in range(4):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(str(name.socket("one")))
            except BlockingIOError:
                break
        else:
            pytest.fail("the backlog never filled")
        name.take("one")
        assert not name.take_if_free("two")


@pytest.mark.parametrize("leftover", ["a dead socket", "nothing", "a plain file"])
@pytest.mark.parametrize("given", ["to nobody", "to the one who asks"])
def test_a_name_that_leads_nowhere_is_free(name: InstanceLink, leftover: str, given: str) -> None:
    if given == "to nobody":
        assert name.take_if_free("one")
    else:
        name.take("two")
        name.link.unlink()
        name.link.symlink_to("one.sock")
    assert name.holder() == "one"
    if leftover == "a dead socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(name.socket("one")))
        assert name.socket("one").exists()
    elif leftover == "a plain file":
        name.socket("one").touch()
    assert name.take_if_free("two")
    assert name.holder() == "two"


@pytest.mark.parametrize("ended", ["killed", "stopped"])
def test_a_name_that_was_given_is_taken_by_no_other_process_even_while_nobody_holds_it(
    name: InstanceLink, ended: str
) -> None:
    name.take("old")
    name.take("one")
    if ended == "stopped":
        assert name.give_up("one")
    before = name.holder()
    for other in ("old", "two"):
        with listening(name, other):
            assert not name.take_if_free(other), "what was replaced, or never let serve, would serve"
            assert name.holder() == before
    assert name.take_if_free("one"), "it was given to this one, which has started again"
    assert name.holder() == "one"


def test_a_name_that_was_given_can_be_given_to_another(name: InstanceLink) -> None:
    assert name.given() is None
    for release in ("one", "two", "v1.2.sock.3"):
        name.take(release)
        assert name.given() == release
    assert not name.take_if_free("one")


def test_a_name_that_was_taken_while_it_was_free_is_not_given(name: InstanceLink) -> None:
    assert name.take_if_free("one")
    assert name.given() is None, "nobody said that this one shall serve and no other"
    assert name.give_up("one")
    assert name.take_if_free("two")


def test_a_take_that_is_killed_before_the_name_moves_leaves_the_former_one_serving(
    name: InstanceLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_self: InstanceLink, _release: str) -> None:
        raise KeyboardInterrupt

    name.take("one")
    with monkeypatch.context() as patched:
        patched.setattr(InstanceLink, "_point_at", killed)
        with pytest.raises(KeyboardInterrupt):
            name.take("two")
    assert (name.holder(), name.given()) == ("one", "two")
    assert name.take_if_free("one"), "it still holds the name, and may start again"
    with listening(name, "one"):
        assert not name.take_if_free("two")
    assert name.take_if_free("two")


def test_what_is_written_down_is_read_whole_or_not_at_all(name: InstanceLink) -> None:
    (name.directory / "given.new").write_text("ha")
    assert name.given() is None
    name.take("one")
    name.write_generation(7)
    assert name.given() == "one"
    assert {path.name for path in name.directory.iterdir()} >= {"given", "turn", "http.sock"}
    assert not [path for path in name.directory.iterdir() if path.name.endswith(".new")]


def test_what_was_given_outlives_the_process_to_which_it_was_given(name: InstanceLink) -> None:
    lock = name.open_lock("one")
    assert lock is not None
    name.write_status("one", {"state": "serving"})
    name.take("one")
    assert name.living() == ["one"]
    os.close(lock)
    name.sweep()
    assert name.status("one") is None
    assert name.given() == "one"


def test_a_release_that_is_still_starting_is_waited_for_before_it_takes_the_name(name: InstanceLink) -> None:
    name.take("one")
    name.write_status("two", {"state": "starting"})
    with listening(name, "two"):
        later = threading.Timer(0.3, name.write_status, ("two", {"state": "ready"}))
        later.start()
        serve(name.directory.parent, "app1", "two", patience=PATIENCE)
        later.join(PATIENCE)
        assert (name.holder(), name.given()) == ("two", "two")


def test_a_release_that_has_said_nothing_yet_is_waited_for_too(name: InstanceLink) -> None:
    with listening(name, "two"):
        later = threading.Timer(0.3, name.write_status, ("two", {"state": "ready"}))
        later.start()
        serve(name.directory.parent, "app1", "two", patience=PATIENCE)
        later.join(PATIENCE)
        assert name.holder() == "two"


@pytest.mark.parametrize(("state", "patience", "least"), [("starting", 0.5, 0.5), ("draining", PATIENCE, 0.0)])
def test_who_does_not_get_healthy_is_waited_for_as_long_as_was_said_and_who_cannot_not_at_all(
    name: InstanceLink, state: str, patience: float, least: float
) -> None:
    name.take("one")
    name.write_status("two", {"state": state})
    began = time.monotonic()
    with pytest.raises(Unhealthy, match=f"release two is {state}"):
        serve(name.directory.parent, "app1", "two", patience)
    took = time.monotonic() - began
    assert least <= took < max(least + PATIENCE / 3, PATIENCE / 2)
    assert (name.holder(), name.given()) == ("one", "one")


def test_the_command_waits_for_a_release_and_writes_the_turn_down_when_it_serves(name: InstanceLink) -> None:
    arguments = ["serve", "--sockets", str(name.directory.parent), "--instance", "app1", "--release", "two"]
    assert main([*arguments, "--turn", "3"]) == 1
    assert not (name.directory / "turn").exists(), "it was not given"
    with listening(name, "two"):
        later = threading.Timer(0.3, name.write_status, ("two", {"state": "ready"}))
        later.start()
        assert main([*arguments, "--turn", "3", "--wait", str(PATIENCE)]) == 0
        later.join(PATIENCE)
    assert (name.holder(), (name.directory / "turn").read_text()) == ("two", "3")


def test_what_a_killed_take_left_behind_is_in_nobodys_way(name: InstanceLink) -> None:
    (name.directory / "http.sock.new").symlink_to("half.sock")
    name.take("one")
    assert name.holder() == "one"
    assert not os.path.lexists(name.directory / "http.sock.new")


def test_only_the_holder_gives_the_name_up(name: InstanceLink) -> None:
    name.take("one")
    assert not name.give_up("two")
    assert name.holder() == "one"
    assert name.give_up("one")
    assert name.holder() is None


def test_of_many_threads_that_take_a_free_name_one_holds_it(name: InstanceLink) -> None:
    releases = [f"r{number}" for number in range(8)]
    won: list[str] = []
    for _round in range(20):
        won.clear()
        barrier = threading.Barrier(len(releases))

        def take(release: str, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(PATIENCE)
            if name.take_if_free(release):
                won.append(release)

        with ExitStack() as stack:
            for release in releases:
                stack.enter_context(listening(name, release))
            threads = [threading.Thread(target=take, args=(release,)) for release in releases]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            assert [name.holder()] == won
        assert name.give_up(won[0])


def test_of_many_processes_that_take_a_free_name_one_holds_it(name: InstanceLink) -> None:
    releases = [f"r{number}" for number in range(6)]
    with ExitStack() as stack:
        for release in releases:
            stack.enter_context(listening(name, release))
        takers = [
            subprocess.Popen(
                [sys.executable, "-c", TAKE, str(name.directory.parent), release],
                env={"PYTHONPATH": str(ROOT / "runtime")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for release in releases
        ]
        for taker in takers:
            assert taker.stdin is not None
            taker.stdin.write("go\n")
            taker.stdin.flush()
        won = [answer for taker in takers if (answer := taker.communicate(timeout=PATIENCE)[0].strip())]
    assert [name.holder()] == won


def test_a_status_is_read_whole_or_not_at_all(name: InstanceLink) -> None:
    assert name.status("one") is None
    ends = threading.Event()
    seen = []

    def read() -> None:
        while not ends.is_set():
            status = name.status("one")
            if status is not None:
                seen.append(len(status["message"]))

    reader = threading.Thread(target=read)
    reader.start()
    for _number in range(500):
        for length in (10, 100_000):
            name.write_status("one", {"message": "x" * length})
        if len(seen) > 200:
            break
    ends.set()
    reader.join(PATIENCE)
    assert seen
    assert set(seen) <= {10, 100_000}


@pytest.mark.parametrize("state", [None, "starting", "draining", "serving"])
def test_serve_refuses_what_is_not_proven_healthy(name: InstanceLink, state: str | None) -> None:
    name.take("one")
    if state is not None:
        name.write_status("two", {"state": state})
    with pytest.raises(Unhealthy):
        serve(name.directory.parent, "app1", "two")
    assert name.holder() == "one"


def test_several_take_their_names_and_each_says_for_which_time_it_was(name: InstanceLink) -> None:
    root = name.directory.parent
    other = InstanceLink(root, "app2")
    other.directory.mkdir()
    name.take("one")
    name.write_generation(4)
    for link in (name, other):
        link.write_status("two", {"state": "ready"})
    with listening(name, "two"), listening(other, "two"):
        assert list(serve_all(root, ["app1/two", "app2/two"])) == ["app1/two/5", "app2/two/1"]
        assert [(link.holder(), link.given(), link.generation()) for link in (name, other)] == [
            ("two", "two", 5),
            ("two", "two", 1),
        ]
        again = list(serve_all(root, ["app1/two", "app2/two"]))
    assert again == ["app1/two/5", "app2/two/1"], "who has its name got it once"


def test_who_took_a_free_name_by_itself_is_given_it_for_the_first_time(name: InstanceLink) -> None:
    assert name.take_if_free("one")
    name.write_status("one", {"state": "serving"})
    with listening(name, "one"):
        assert list(serve_all(name.directory.parent, ["app1/one"])) == ["app1/one/1"]
    assert (name.given(), name.generation()) == ("one", 1)


def test_where_one_can_not_take_its_name_those_after_it_take_none(name: InstanceLink) -> None:
    root = name.directory.parent
    others = [InstanceLink(root, called) for called in ("app2", "app3")]
    for link in (name, *others):
        link.directory.mkdir(exist_ok=True)
        link.take("one")
        link.write_status("two", {"state": "draining" if link is others[0] else "ready"})
    taking = serve_all(root, ["app1/two", "app2/two", "app3/two"])
    with listening(name, "two"), listening(others[0], "two"), listening(others[1], "two"):
        assert next(taking) == "app1/two/1"
        with pytest.raises(Unhealthy, match=re.escape("app2: release two is draining")):
            next(taking)
    assert [link.holder() for link in (name, *others)] == ["two", "one", "one"]
    assert others[0].generation() == 0


@pytest.mark.parametrize("holder", [None, "one"])
def test_who_was_given_its_name_and_has_it_no_more_is_left_to_who_has_seen_it(
    name: InstanceLink, holder: str | None
) -> None:
    """Whether it takes it again by itself, a moment later, is not to be seen here: the count would be another one's."""
    name.take("two")
    name.write_generation(2)
    name.write_status("two", {"state": "ready"})
    name.link.unlink()
    if holder is not None:
        name.link.symlink_to(f"{holder}.sock")
    with listening(name, "two"):
        assert list(serve_all(name.directory.parent, ["app1/two"])) == []
    assert (name.holder(), name.generation()) == (holder, 2)


@pytest.mark.parametrize("first", ["starting", "ready, and does not listen"])
def test_one_that_was_started_again_meanwhile_is_waited_for(name: InstanceLink, first: str) -> None:
    name.write_status("one", {"state": first.partition(",")[0]})
    with ExitStack() as stack:

        def rise() -> None:
            stack.enter_context(listening(name, "one"))
            name.write_status("one", {"state": "ready"})

        later = threading.Timer(0.3, rise)
        later.start()
        found = list(serve_all(name.directory.parent, ["app1/one"], PATIENCE))
        later.join(PATIENCE)
    assert found == ["app1/one/1"]


@pytest.mark.parametrize("text", ["", "x", "-1", "³", "1\n", "1234567890", "9" * 5000])
def test_a_generation_that_is_no_number_is_none(text: str, name: InstanceLink) -> None:
    (name.directory / "turn").write_text(text, encoding="utf-8")
    assert name.generation() == 0


def test_a_path_too_long_for_a_socket_is_said_before_anything_starts(
    stand: Stand, capsys: pytest.CaptureFixture[str]
) -> None:
    config = stand.config()
    instance = "a" * (LONGEST_SOCKET_PATH - len(str(stand.sockets / "one.sock")))
    arguments = ["run", "--config", str(config), "--sockets", str(stand.sockets), "--instance"]
    assert main([*arguments, instance]) == 2
    error = capsys.readouterr().err
    assert f"{stand.sockets / instance / 'one.sock'}: longer than the 107 bytes of a unix socket" in error
    assert not (stand.sockets / instance).exists()
