"""The three steps of a change of SECRET_KEY, interrupted at every write and every release."""

from __future__ import annotations

import contextlib
import json
import stat
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from cli.rotating import run_rotate_hosts
from cluster.config import StackFileError, parse_config
from cluster.config.models import DROPPED_KEYS, SECRET_KEYS, dump
from cluster.errors import CommandError
from cluster.stack.rotation import (
    DROP,
    HOSTS,
    UNKNOWN,
    AlreadyDropped,
    LostKey,
    ProgressFile,
    mark,
    rotate,
    unverified_by,
)
from cluster.stack.secrets import SecretError, ensure_secrets, read_secrets
from platforms.local.platform import LocalKeys
from platforms.pulumi.keys import PulumiHostsKeys, PulumiKeys

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from platforms.pulumi.engine import Pulumi

AGE = 1000.0


class Killed(Exception):  # noqa: N818 - what it is
    """The command was killed."""


class Site:
    """Keys where a platform keeps them, and the instances that were released with them."""

    def __init__(self, *, killed_at: int | None = None) -> None:
        self.key, self.fallbacks = "old", ["older"]
        self.aside: list[str] = []
        self.said: list[str] = []
        self.running = (self.key, list(self.fallbacks))
        self.moments = 0
        self.killed_at = killed_at
        self.releases: list[tuple[str, list[str]]] = []

    def _moment(self) -> None:
        lost = {"old", "older"} - {self.key, *self.fallbacks, *self.aside}
        assert not lost, f"gone for good: {lost}"
        self.moments += 1
        if self.moments == self.killed_at:
            raise Killed

    def read(self) -> tuple[str, list[str]]:
        return self.key, list(self.fallbacks)

    def write_key(self, key: str) -> None:
        self._moment()
        self.key = key
        self._moment()

    def write_fallbacks(self, keys: list[str]) -> None:
        self._moment()
        self.fallbacks = list(keys)
        self._moment()

    def keep_aside(self, keys: list[str]) -> str:
        self._moment()
        self.aside += [key for key in keys if key not in self.aside]
        self._moment()
        return "a place"

    def release(self) -> None:
        """Run a former and a new instance beside each other: each must verify what the other one signs."""
        self._moment()
        (former, accepted), (key, fallbacks) = self.running, self.read()
        assert key in {former, *accepted}, "an instance that runs would refuse what the new one signs"
        assert former in {key, *fallbacks}, "the new instance would refuse what was signed a moment ago"
        self.running = (key, fallbacks)
        self.releases.append(self.running)
        self._moment()


def go_on(path: Path, site: Site, now: float, *, keep: bool = False) -> object:
    return rotate(
        ProgressFile(path),
        site,
        release=site.release,
        say=site.said.append,
        now=lambda: now,
        age=AGE,
        keep_fallback=keep,
    )


def until_done(path: Path, site: Site) -> None:
    """Say it again until it is done, whenever it was killed."""
    now = 0.0
    for _time in range(4):
        try:
            if go_on(path, site, now) is None:
                return
        except Killed:
            continue
        now += AGE
    pytest.fail("it never ends")


def test_three_releases_change_the_key(tmp_path: Path) -> None:
    site, path = Site(), tmp_path / "rotation.json"
    left = go_on(path, site, 0.0)
    assert left == ProgressFile(path).load()
    assert ProgressFile(path).load() is not None
    (first, second) = site.releases
    new = second[0]
    assert first == ("old", [new, "older"])
    assert second == (new, ["older", "old"])
    assert new not in path.read_text(), "the key itself would lie in a plain file"
    assert mark(new) in path.read_text()
    go_on(path, site, AGE - 1)
    assert len(site.releases) == 2, "sessions that the old key has signed are still valid"
    assert "a place" not in "".join(site.said)
    site.said.clear()
    assert go_on(path, site, AGE) is None
    assert site.running == (new, [])
    assert site.aside == ["older", "old"]
    *unknown, third, where = site.said
    assert tuple(unknown) == UNKNOWN, "what can't be known is said before it is too late"
    assert (third, where) == ("step 3 of 3: the old key goes", "the old key is kept aside: a place")
    assert ProgressFile(path).load() is None


MOMENTS = 18


@pytest.mark.parametrize("moment", range(1, MOMENTS + 1))
def test_killed_at_any_moment_it_goes_on_and_no_key_is_refused_or_lost(tmp_path: Path, moment: int) -> None:
    site, path = Site(killed_at=moment), tmp_path / "rotation.json"
    until_done(path, site)
    assert site.moments >= moment, "it was never killed"
    key, fallbacks = site.running
    assert key not in ("old", "older")
    assert fallbacks == []
    assert sorted(site.aside) == ["old", "older"], "what was dropped is kept, once"
    assert len({one[0] for one in site.releases}) <= 2, "a second new key was made"


def test_all_moments_of_a_rotation_are_tried(tmp_path: Path) -> None:
    site = Site()
    until_done(tmp_path / "rotation.json", site)
    assert site.moments == MOMENTS


def test_a_failed_release_leaves_the_rotation_where_it_was(tmp_path: Path) -> None:
    site, path = Site(), tmp_path / "rotation.json"

    def fails() -> None:
        raise RuntimeError("not healthy")

    def run(release: Callable[[], None]) -> object:
        return rotate(ProgressFile(path), site, release=release, say=lambda _line: None, now=lambda: 0.0, age=AGE)

    for _time in range(3):
        with pytest.raises(RuntimeError):
            run(fails)
    assert len(site.fallbacks) == 2, "each try would add a key"
    left = run(site.release)
    assert left is not None
    assert ProgressFile(path).load() is not None
    assert getattr(left, "step", "") == DROP


def test_fallbacks_that_lost_the_new_key_are_told_of_and_nothing_is_dropped(tmp_path: Path) -> None:
    site = Site()
    path = tmp_path / "rotation.json"

    def lose() -> None:
        site.fallbacks = []

    with pytest.raises(LostKey, match="is not among secret_key_fallbacks"):
        rotate(ProgressFile(path), site, release=lose, say=lambda _line: None, now=lambda: 0.0, age=AGE)


def test_the_old_key_does_not_go_where_another_than_the_new_one_signs(tmp_path: Path) -> None:
    """Somebody changed it by hand since: the new one may be among the fallbacks, and has signed what is valid."""
    site = Site()
    path = tmp_path / "rotation.json"
    go_on(path, site, 0.0)
    by_rotation = site.key
    site.key, site.fallbacks = "by hand", [by_rotation, *site.fallbacks]
    with pytest.raises(LostKey, match="secret_key is not the new key any more"):
        go_on(path, site, AGE + 1)
    assert by_rotation in site.fallbacks


@pytest.mark.parametrize(
    ("secrets", "accepted"),
    [
        ({"secret_key": "new"}, True),
        ({"secret_key": "old", "secret_key_fallbacks": '["new"]'}, True),
        ({"secret_key": "old", "secret_key_fallbacks": "[]"}, False),
        ({"secret_key": "old"}, False),
    ],
)
def test_a_release_from_before_the_new_key_is_no_way_back(secrets: dict[str, str], accepted: bool) -> None:
    found = unverified_by(secrets, "new", "0123456789ab")
    assert (found is None) == accepted
    assert found is None or "release 0123456789ab is from before" in found


@pytest.mark.parametrize("moment", range(1, 13))
def test_with_keep_fallback_it_ends_after_the_second_step_wherever_it_was_killed(tmp_path: Path, moment: int) -> None:
    site, path = Site(killed_at=moment), tmp_path / "rotation.json"
    with contextlib.suppress(Killed):
        go_on(path, site, 0.0, keep=True)
    assert site.moments == moment, "it was never killed"
    assert go_on(path, site, 0.0, keep=True) is None
    key, fallbacks = site.running
    assert key not in ("old", "older")
    assert fallbacks == ["older", "old"]
    assert (site.aside, ProgressFile(path).load()) == ([], None)


def test_keep_fallback_ends_one_that_waits_without_a_release(tmp_path: Path) -> None:
    site, path = Site(), tmp_path / "rotation.json"
    go_on(path, site, 0.0)
    before = len(site.releases)
    assert go_on(path, site, 1.0, keep=True) is None
    assert (len(site.releases), site.fallbacks, ProgressFile(path).load()) == (before, ["older", "old"], None)


def test_keep_fallback_comes_too_late_when_the_old_key_is_dropped(tmp_path: Path) -> None:
    site, path = Site(killed_at=MOMENTS - 2), tmp_path / "rotation.json"
    go_on(path, site, 0.0)
    with pytest.raises(Killed):
        go_on(path, site, AGE)
    assert site.fallbacks == []
    with pytest.raises(AlreadyDropped):
        go_on(path, site, AGE, keep=True)
    assert go_on(path, site, AGE) is None
    assert site.aside == ["older", "old"]


def test_dropped_keys_lie_in_a_file_of_their_owner_beside_the_secrets_that_no_release_holds(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    key = ensure_secrets(directory)["secret_key"]
    keys = LocalKeys(directory)
    assert str(directory / DROPPED_KEYS) in keys.keep_aside(["first"])
    keys.keep_aside(["first", "second"])
    path = directory / DROPPED_KEYS
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one["key"] for one in json.loads(path.read_text())] == ["first", "second"]
    assert read_secrets(directory) == {"secret_key": key}
    path.chmod(0o640)
    with pytest.raises(SecretError, match="lets others read it"):
        read_secrets(directory)
    path.chmod(0o600)
    for text in ("no JSON", "{}", '["first"]'):
        path.write_text(text)
        with pytest.raises(SecretError, match="move it away"):
            keys.keep_aside(["third"])
        assert path.read_text() == text, "what was there is not lost"


# --- of what hosts make their certificates


class OfHosts(Site):
    """What hosts show and believe, of which none is told at the same time as another; of a key nothing is kept."""

    def keep_aside(self, keys: list[str]) -> str:
        self._moment()
        self.aside += keys
        return ""


def change_of_hosts(path: Path, site: Site) -> object:
    return rotate(
        ProgressFile(path), site, release=site.release, say=site.said.append, now=lambda: 0.0, age=0, kind=HOSTS
    )


def test_hosts_believe_another_key_before_it_is_shown_and_forget_the_old_one_last(tmp_path: Path) -> None:
    site = OfHosts()
    assert change_of_hosts(tmp_path / "rotation.json", site) is None
    new = site.key
    assert site.releases == [("old", [new, "older"]), (new, ["older", "old"]), (new, [])]
    assert len(bytes.fromhex(new)) == 32
    assert [line[:11] for line in site.said] == ["step 1 of 3", "step 2 of 3", "step 3 of 3"], "nothing is kept aside"


@pytest.mark.parametrize("moment", range(1, MOMENTS))
def test_a_change_of_hosts_goes_on_wherever_it_was_killed(tmp_path: Path, moment: int) -> None:
    site, path = OfHosts(killed_at=moment), tmp_path / "rotation.json"
    with contextlib.suppress(Killed):
        change_of_hosts(path, site)
    assert site.moments == moment, "it was never killed"
    assert change_of_hosts(path, site) is None
    assert site.running[1] == []
    assert len({one[0] for one in site.releases}) <= 2, "a second new key was made"


@pytest.mark.parametrize(
    ("keys", "keep", "words"),
    [
        (None, False, "--hosts: stack dev has no hosts that ask each other for anything"),
        (("", []), False, "stack dev was never up"),
        (("5e", []), True, "--keep-fallback is for SECRET_KEY"),
    ],
)
def test_where_hosts_know_each_other_by_nothing_there_is_nothing_to_change(
    tmp_path: Path, keys: tuple[str, list[str]] | None, keep: bool, words: str
) -> None:
    found = None if keys is None else SimpleNamespace(read=lambda: keys)
    platform: Any = SimpleNamespace(hosts_keys=lambda: found)
    stack: Any = SimpleNamespace(state=tmp_path, name="dev")
    with pytest.raises(CommandError, match=words):
        run_rotate_hosts(stack, platform, keep_fallback=keep)


class Config:
    """The secrets of a Pulumi stack."""

    stack = "dev"

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def secret(self, name: str) -> str | None:
        return self.values.get(name)

    def has_secret(self, name: str) -> bool:
        return name in self.values

    def set_secret(self, name: str, value: str) -> None:
        self.values[name] = value

    def remove_secret(self, name: str) -> None:
        self.values.pop(name, None)


class OfProgram(Site):
    """Keys that everybody has who has the stack file: another checkout has its own directory, and the same file."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Config()

    def go_on(self, state: Path, now: float) -> object:
        progress = PulumiKeys(cast("Pulumi", self.config)).progress(state)
        return rotate(progress, self, release=self.release, say=self.said.append, now=lambda: now, age=AGE)


def test_a_rotation_that_one_checkout_has_begun_is_ended_in_another(tmp_path: Path) -> None:
    site = OfProgram()
    assert site.go_on(tmp_path / "ann", 0.0) is not None
    assert set(site.config.values) == {"secret_key_rotation"}
    assert site.key not in site.config.values["secret_key_rotation"]
    assert site.go_on(tmp_path / "ben", AGE) is None
    assert len({key for key, _fallbacks in site.releases}) == 2, "a second new key was made"
    assert site.running == (site.key, [])
    assert not site.config.values, "it has ended"
    assert not list(tmp_path.iterdir()), "it lies in a checkout"


def test_a_rotation_that_a_checkout_alone_knew_goes_on_for_all(tmp_path: Path) -> None:
    site, former = OfProgram(), tmp_path / "rotation.json"
    assert (
        rotate(ProgressFile(former), site, release=site.release, say=site.said.append, now=lambda: 0.0, age=AGE)
        is not None
    )
    assert site.go_on(tmp_path, AGE) is None
    assert len({key for key, _fallbacks in site.releases}) == 2, "a second new key was made"
    assert not former.exists()


def test_a_rotation_that_nobody_can_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    config = Config()
    progress = PulumiHostsKeys(cast("Pulumi", config)).progress(tmp_path)
    assert progress.load() is None
    config.values["hosts_key_rotation"] = "hunter2"
    with pytest.raises(LostKey, match="cluster:hosts_key_rotation: holds something else: how far") as raised:
        progress.load()
    assert "hunter2" not in str(raised.value)
    assert progress.forget == "`pulumi config rm cluster:hosts_key_rotation --stack dev`"
    progress.save(None)
    (tmp_path / "rotation-hosts.json").write_text("x")
    with pytest.raises(LostKey, match=r"rotation-hosts.json: is not JSON"):
        progress.load()
    assert progress.forget == f"remove {tmp_path / 'rotation-hosts.json'}"


def test_of_what_hosts_make_their_certificates_both_are_secrets_of_the_stack() -> None:
    config = Config()
    keys = PulumiHostsKeys(cast("Pulumi", config))
    assert keys.read() == ("", [])
    keys.write_key("5e")
    keys.write_fallbacks(["07"])
    assert keys.read() == ("5e", ["07"])
    assert keys.keep_aside(["07"]) == ""
    assert set(config.values) == {"hosts_key", "hosts_key_fallbacks"}


def test_dropped_keys_of_a_pulumi_stack_are_a_secret_of_their_own() -> None:
    config = Config()
    keys = PulumiKeys(cast("Pulumi", config))
    assert "pulumi config rm cluster:dropped_secret_keys --stack dev" in keys.keep_aside(["first"])
    keys.keep_aside(["first", "second"])
    assert list(config.values) == [DROPPED_KEYS]
    assert [one["key"] for one in json.loads(config.values[DROPPED_KEYS])] == ["first", "second"]
    config.values[DROPPED_KEYS] = "x"
    with pytest.raises(CommandError, match="can't be read"):
        keys.keep_aside(["third"])


def test_dropped_keys_reach_no_release_and_no_message() -> None:
    values: dict[str, Any] = {
        "platform": "local",
        "app": {"project": "./example", "settings": "example.settings"},
        "upstream": {"servers": 2},
        "site": {"server_names": ["cluster"]},
    }
    config = parse_config({**values, DROPPED_KEYS: "hunter2"})
    assert DROPPED_KEYS not in SECRET_KEYS, "these are what a release is given"
    assert "hunter2" not in f"{config!r}{dump(config)}"
    with pytest.raises(StackFileError) as raised:
        parse_config({**values, DROPPED_KEYS: ["hunter2"]})
    assert str(raised.value) == "stack file: dropped_secret_keys: must be text"
