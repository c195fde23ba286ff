"""A preview that starts before it is known what its program is to be told: by a program in Pulumi's place."""

from __future__ import annotations

import json
import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from cluster.stack.paths import stack_path
from platforms.pulumi.engine import Pulumi, PulumiError
from tests.jobs import until
from tests.processes import lives

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

#: Seconds that a run may take.
PATIENCE = 120.0

#: In Pulumi's place: keeps its process and what it is told, waits where it starts ahead until its program is served,
#: and says the events that are in a file beside it.
SAYING = """
echo "$$ $*" >>"$0.told"
case "$*" in *" --client=unix:$0.ahead "*) while [ ! -e "$0.served" ]; do sleep 0.02; done ;; esac
for word; do [ "$former" != --event-log ] || log=$word; former=$word; done
[ -z "$log" ] || cat "$0.events" >>"$log"
"""

#: Ends with the status that is in another file.
RUNNING = f"""#!/bin/sh
{SAYING}
echo "it has ended"
exit "$(cat "$0.status")"
"""

#: A stack file into which nobody has to write first.
STACK_FILE = "encryptionsalt: v1:abc\nconfig:\n  cluster:secret_key:\n    secure: v1:def\n"

#: Ends a moment after it was interrupted, by itself, as an engine does that waits for what it has begun.
INTERRUPTED = f"""#!/bin/sh
case "$*" in *export*) exit ;; esac
trap 'touch "$0.interrupted"; sleep 1; touch "$0.ended"; exit 1' INT
{SAYING}
for time in $(seq 1000); do sleep 0.05; done
"""

#: What the engine says of a resource that it begins with, and of how it ended.
STEP = {"resourcePreEvent": {"metadata": {"urn": "urn", "op": "same", "type": "t"}}}
SUMMARY = {"summaryEvent": {"resourceChanges": {"same": 3}}}


class Served:
    """Says where a program is served, in the place of what serves it. address: None where it can't be."""

    def __init__(self, program: Path) -> None:
        self.ahead = program.with_name("pulumi.ahead")
        self.served = program.with_name("pulumi.served")
        self.address: str | None = "unix:/somewhere"
        self.asked: list[tuple[bool, str | None]] = []

    @contextmanager
    def serving(self, environment: Mapping[str, str], _directory: Path, *, ahead: bool = False) -> Iterator[str | None]:
        self.asked.append((ahead, environment.get("CLUSTER_RELEASE")))
        if ahead and self.address is not None:
            self.served.touch()
        yield self.address

    def interpreter(self, directory: Path) -> Path:
        return directory


class Stand:
    """A stack, the program in Pulumi's place, and what serves its program."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.program = root / "pulumi"
        self.program.write_text(RUNNING)
        self.program.chmod(0o755)
        (root / "Pulumi.yaml").write_text("name: p\n")
        self.file = stack_path(root, "dev")
        self.file.parent.mkdir()
        self.file.write_text(STACK_FILE)
        self.says(STEP, SUMMARY)
        self.serving = Served(self.program)
        self.pulumi = Pulumi(root, "dev", lambda _: None)
        self.pulumi.programs = self.serving  # type: ignore[assignment]

    def says(self, *events: object, status: int = 0) -> None:
        """Let it say that in its next runs."""
        self.program.with_name("pulumi.events").write_text("".join(f"{json.dumps(event)}\n" for event in events))
        self.program.with_name("pulumi.status").write_text(str(status))

    @property
    def previews(self) -> list[tuple[int, bool]]:
        """The previews that started: their processes, and whether ahead."""
        told = self.program.with_name("pulumi.told")
        lines = [line.split() for line in told.read_text().splitlines()] if told.exists() else []
        return [
            (int(pid), f"--client=unix:{self.serving.ahead}" in words)
            for pid, _option, command, *words in lines
            if command == "preview"
        ]

    def begin(self) -> int:
        """Let it begin; return the process of the preview that started ahead."""
        self.pulumi.begin()
        until(lambda: bool(self.previews), PATIENCE)
        [(pid, ahead)] = self.previews
        assert ahead
        return pid

    def preview(self, *, refresh: bool = False) -> Mapping[str, int]:
        return self.pulumi.preview(lambda _event: None, refresh=refresh, CLUSTER_RELEASE="abc").counts


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    monkeypatch.setattr("platforms.pulumi.engine.find_pulumi", lambda _say: str(tmp_path / "pulumi"))
    monkeypatch.setattr("platforms.pulumi.ahead.FRESH", PATIENCE)
    monkeypatch.setenv("PULUMI_BACKEND_URL", "file:///nowhere")
    return Stand(tmp_path)


def test_it_goes_on_as_soon_as_it_is_known_what_its_program_is_told(stand: Stand) -> None:
    pid = stand.begin()
    assert stand.preview() == {"same": 3}
    assert stand.previews == [(pid, True)]
    assert stand.serving.asked == [(True, "abc")]


def test_the_next_preview_is_another_one(stand: Stand) -> None:
    stand.begin()
    stand.preview()
    assert stand.preview() == {"same": 3}
    assert [ahead for _pid, ahead in stand.previews] == [True, False]
    assert stand.serving.asked == [(True, "abc"), (False, "abc")]


def test_it_starts_once(stand: Stand) -> None:
    stand.begin()
    stand.pulumi.begin()
    stand.preview()
    assert len(stand.previews) == 1


#: What makes another preview of it than would start now.
OTHERWISE: dict[str, Callable[[Stand, pytest.MonkeyPatch], object]] = {
    "the stack file was written": lambda stand, _: stand.file.write_text(f"{STACK_FILE}  x: 1\n"),
    "the project's file was written": lambda stand, _: (stand.root / "Pulumi.yaml").write_text("name: q\n"),
    "there is a passphrase now": lambda _, patch: patch.setenv("PULUMI_CONFIG_PASSPHRASE", "secret"),
    "it has waited for long": lambda _, patch: patch.setattr("platforms.pulumi.ahead.FRESH", 0.0),
    "the program can't be served": lambda stand, _: setattr(stand.serving, "address", None),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_it_is_killed_where_another_one_would_start_now(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    pid = stand.begin()
    OTHERWISE[what](stand, monkeypatch)
    assert stand.preview() == {"same": 3}
    assert [ahead for _pid, ahead in stand.previews] == [True, False]
    assert not lives(pid)


def test_it_is_killed_where_the_engine_is_to_look_at_what_is_there_first(stand: Stand) -> None:
    pid = stand.begin()
    assert stand.preview(refresh=True) == {"same": 3}
    assert [ahead for _pid, ahead in stand.previews] == [True, False]
    assert not lives(pid)


def test_one_that_has_ended_meanwhile_starts_again(stand: Stand) -> None:
    stand.says(status=1)
    pid = stand.begin()
    stand.serving.served.touch()
    until(lambda: not lives(pid) or os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), PATIENCE)
    stand.says(STEP, SUMMARY)
    assert stand.preview() == {"same": 3}
    assert stand.serving.asked == [(False, "abc")]


def test_one_that_fails_before_it_came_to_the_program_starts_again(stand: Stand) -> None:
    stand.says(status=1)
    stand.begin()
    with pytest.raises(PulumiError, match="it has ended"):
        stand.preview()
    assert [ahead for _pid, ahead in stand.previews] == [True, False]


@pytest.mark.parametrize("said", [({"policyLoadEvent": {}}, STEP, SUMMARY), (SUMMARY,)], ids=["some", "none at all"])
def test_what_it_says_before_it_came_to_a_resource_is_passed_on(stand: Stand, said: tuple[dict[str, Any], ...]) -> None:
    stand.says(*said)
    stand.begin()
    told: list[Any] = []
    stand.pulumi.preview(told.append)
    assert told == [*said]
    assert len(stand.previews) == 1


def test_what_one_says_that_starts_again_is_not_told_twice(stand: Stand) -> None:
    """Nor before: who is told begins threads by that, and a process with threads must not start the engine."""
    loaded: dict[str, Any] = {"policyLoadEvent": {}}
    stand.says(loaded, status=1)
    stand.begin()
    told: list[tuple[Any, int]] = []
    with pytest.raises(PulumiError, match="it has ended"):
        stand.pulumi.preview(lambda event: told.append((event, len(stand.previews))))
    assert told == [(loaded, 2)]


@pytest.mark.parametrize("ahead", [True, False])
def test_one_that_is_under_way_ends_by_itself_whatever_becomes_of_who_waits_for_it(stand: Stand, ahead: bool) -> None:
    """Killed, it would leave what it has started."""
    stand.program.write_text(INTERRUPTED)
    if ahead:
        stand.begin()

    def full(_event: object) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        stand.pulumi.preview(full)
    [(pid, _ahead)] = stand.previews
    assert lives(pid)
    os.kill(pid, signal.SIGINT)
    until(stand.program.with_name("pulumi.ended").exists, PATIENCE)


@pytest.mark.parametrize("ahead", [True, False])
def test_one_that_is_interrupted_again_while_it_ends_is_not_killed(stand: Stand, ahead: bool) -> None:
    stand.program.write_text(INTERRUPTED)
    if ahead:
        stand.begin()

    def press() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        until(stand.program.with_name("pulumi.interrupted").exists, PATIENCE)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    try:
        with pytest.raises(KeyboardInterrupt):
            stand.pulumi.preview(lambda _event: None if pressing.ident else pressing.start())
        pressing.join(PATIENCE)
    finally:
        signal.signal(signal.SIGINT, before)
    until(stand.program.with_name("pulumi.ended").exists, PATIENCE)


#: Stacks for which none starts ahead: it would write into the file, or be known of.
NOT_FOR = {
    "no salt": (STACK_FILE.partition("\n")[2], "s3://bucket"),
    "no secret_key": ("encryptionsalt: v1:abc\nconfig: {}\n", "s3://bucket"),
    "no file": (None, "s3://bucket"),
    "another's secret_key": (STACK_FILE.replace("cluster:", "docs:"), "s3://bucket"),
    "pulumi's cloud": (STACK_FILE, "https://api.pulumi.com"),
    "a cloud of one's own": (STACK_FILE, "http://pulumi.example.com:8080"),
}


@pytest.mark.parametrize("what", NOT_FOR)
def test_none_starts_where_it_would_leave_a_trace(stand: Stand, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    text, backend = NOT_FOR[what]
    monkeypatch.setenv("PULUMI_BACKEND_URL", backend)
    stand.file.unlink() if text is None else stand.file.write_text(text)
    stand.pulumi.begin()
    assert stand.preview() == {"same": 3}
    assert [ahead for _pid, ahead in stand.previews] == [False]


@pytest.mark.parametrize("text", [STACK_FILE, STACK_FILE.replace("encryptionsalt", "encryptedkey")])
def test_one_starts_where_all_is_there(stand: Stand, text: str) -> None:
    stand.file.write_text(text)
    stand.begin()


def test_what_the_program_refuses_is_told_and_not_asked_again(stand: Stand) -> None:
    refused = {"diagnosticEvent": {"severity": "error", "message": "cluster:app: there is none"}}
    stand.says(STEP, refused, status=1)
    stand.begin()
    with pytest.raises(PulumiError, match="cluster:app: there is none"):
        stand.preview()
    assert len(stand.previews) == 1


def test_one_that_nobody_asks_for_ends_with_who_has_begun_it(stand: Stand) -> None:
    pid = stand.begin()
    ahead = stand.pulumi._ahead
    assert ahead is not None
    directory = ahead.run.directory
    del ahead
    assert lives(pid)
    assert directory.exists()
    del stand.pulumi
    assert not lives(pid)
    assert not directory.exists()


def test_none_starts_where_the_engine_runs_the_program_itself(stand: Stand) -> None:
    stand.pulumi.programs = None
    stand.pulumi.begin()
    assert stand.preview() == {"same": 3}
    assert stand.previews
    assert not any(ahead for _pid, ahead in stand.previews)


@pytest.mark.parametrize("short", ["a process", "the policy"])
def test_what_can_t_start_ahead_starts_when_it_is_asked_for(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, short: str
) -> None:
    with monkeypatch.context() as missing:
        if short == "a process":
            missing.setattr("platforms.pulumi.running.Run.start", _full)
        else:
            missing.setattr("platforms.pulumi.policing.SDK", "a_module_that_is_not_there")
        stand.pulumi.begin()
    assert stand.preview() == {"same": 3}
    assert [ahead for _pid, ahead in stand.previews] == [False]


def _full(*_: object) -> None:
    raise OSError("no more processes")
