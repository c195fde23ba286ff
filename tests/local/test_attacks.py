"""Nothing that the instances' user does lets root touch what is root's; with the protection switched off it does."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pty
import re
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cli.commands import run_here
from cluster.config import parse_config
from cluster.machine import owner as owners
from cluster.machine.owner import Owner, PathError
from cluster.services import memcached_node
from cluster.topology import build_topology
from cluster_runtime import unfollowed
from cluster_runtime.compress import WORTH_COMPRESSING, compress
from cluster_runtime.instance_link import InstanceLink
from platforms.base import Invocation
from platforms.local import supervisor as supervisors
from platforms.local.builder import Builder, _told
from platforms.local.paths import LocalPaths
from platforms.local.supervisor import Supervisor, SupervisorError
from tests.local.attacks import TRIES, Ground, attack, ground, only_root, owner
from tests.unit.pulumi_mocks import stack_values

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = only_root

__all__ = ["ground"]

# --- what root writes into an instance's directory

LINK_AT_GIVEN = """
import os, sys
directory, canary = sys.argv[1:]
os.chdir(directory)
def attack():
    for name in ("given.new", "turn.new", "http.sock.new", "given", "turn", "app1.json", "app1.json.new"):
        try:
            os.symlink(canary, name)
        except FileExistsError:
            os.unlink(name)
"""


def former_replace(path: Path, content: bytes, mode: int = 0o644) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    new.rename(path)


@pytest.mark.parametrize("protected", [True, False])
def test_a_link_in_an_instance_s_directory_lets_root_write_nowhere(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    name = InstanceLink(ground.root / "run", "app1")
    name.directory.parent.mkdir()
    ground.of_attacker("run/app1")
    if not protected:
        monkeypatch.setattr(unfollowed, "replace", former_replace)
    turns = refused = 0
    with attack(LINK_AT_GIVEN, name.directory, ground.canary) as tries:
        for number in range(TRIES):
            turns += 1
            try:
                name.take(f"release{number}")
                name.write_generation(number)
                name.status("app1")
                name.given()
            except OSError:
                refused += 1
            if not protected and not ground.untouched():
                break
    print(f"{tries[0]:,} tries beside {turns:,} turns, of which {refused} were refused")
    assert ground.untouched() == protected
    assert not protected or tries[0] >= TRIES / 10


def test_what_an_instance_says_is_believed_only_as_far_as_it_can_be(ground: Ground) -> None:
    directory = ground.root / "app1"
    directory.mkdir()
    name = InstanceLink(ground.root, "app1")
    file = name.status_file("one")
    ground.canary.write_text('{"state": "ready"}')
    hostile: dict[str, Callable[[], object]] = {
        "a link": lambda: file.symlink_to(ground.canary),
        "a pipe": lambda: os.mkfifo(file),
        "a directory": file.mkdir,
        "a socket": lambda: socket.socket(socket.AF_UNIX).bind(str(file)),
        "without end": lambda: file.write_text('{"message": "' + "x" * 10**6 + '"}'),
        "deep": lambda: file.write_text("[" * 100_000),
        "no JSON": lambda: file.write_text("\0\1"),
        "no object": lambda: file.write_text("[1]"),
        "another type": lambda: file.write_text('{"pid": "1; rm", "state": ["ready"]}'),
        "another type within": lambda: file.write_text('{"state": "ready", "sessions": {"engine": {}}}'),
    }
    for what, make in hostile.items():
        make()
        assert name.status("one") is None, what
        assert name.given() is None
        file.rmdir() if file.is_dir() else file.unlink()
    file.write_text(json.dumps({"message": "\x1b]0;owned\x07\u202e", "state": "ready"}))
    status = name.status("one")
    assert status is not None
    assert not set(status["message"]) & {"\x1b", "\x07", "\u202e"}
    name.link.write_text("no link")
    assert name.holder() is None
    print(f"{len(hostile)} kinds of what is no status")


# --- what root gives away

SWAP_DIRECTORY = """
import os, sys
data, roots = sys.argv[1:]
os.chdir(data)
def attack():
    os.rename("sub", "aside")
    os.symlink(roots, "sub")
    os.unlink("sub")
    os.rename("aside", "sub")
"""


def former_own(self: Owner, *paths: Path) -> None:
    for path in paths:
        os.chown(path, self.uid, self.gid, follow_symlinks=False)
        for directory, directories, files in os.walk(path):
            for name in (*directories, *files):
                with contextlib.suppress(FileNotFoundError):
                    os.chown(Path(directory) / name, self.uid, self.gid, follow_symlinks=False)


@pytest.mark.parametrize("protected", [True, False])
def test_a_directory_that_becomes_a_link_while_it_is_given_away_leads_root_nowhere(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    data = ground.of_attacker("data")
    sub = ground.of_attacker("data/sub")
    for number in range(20):
        (sub / f"file{number}").touch()
    (sub / "canary").touch()
    if not protected:
        monkeypatch.setattr(Owner, "own", former_own)
    turns = 0
    with attack(SWAP_DIRECTORY, data, ground.roots) as tries:
        for _number in range(TRIES if protected else 20 * TRIES):
            turns += 1
            with contextlib.suppress(OSError, PathError):
                owner().own(data)
            with contextlib.suppress(OSError, PathError):
                owner().make(data)
                owner().make_below(data, "sessions")
            if not protected and not ground.untouched():
                break
    print(f"{tries[0]:,} tries beside {turns:,} turns")
    assert ground.untouched() == protected
    assert not protected or tries[0] >= TRIES / 10


def test_what_has_another_name_elsewhere_is_not_given_away(ground: Ground) -> None:
    data = ground.root / "data"
    data.mkdir()
    (data / "own").touch()
    os.link(ground.canary, data / "linked")
    owner().own(data)
    assert (data / "own").stat().st_uid == owner().uid
    assert ground.canary.stat().st_uid == 0
    (data / "linked").unlink()
    assert ground.untouched()


def test_what_is_another_user_s_is_not_given_away(ground: Ground) -> None:
    data = ground.root / "data"
    data.mkdir()
    theirs = data / "theirs"
    theirs.touch()
    os.chown(theirs, 4321, 4321)
    owner().own(data)
    assert (data.stat().st_uid, theirs.stat().st_uid) == (owner().uid, 4321)


# --- what root makes of a release

STATIC_LINKS = """
import os, sys
public, canary = sys.argv[1:]
os.chdir(public)
names = ["page.css", "other.css"]
def attack():
    for name in names:
        try:
            os.symlink(canary, name)
        except FileExistsError:
            os.unlink(name)
"""


def former_compress(public: Path, endings: tuple[str, ...]) -> None:
    for path in list(public.rglob("*")):
        if path.suffix in endings and path.is_file() and path.stat().st_size >= WORTH_COMPRESSING:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.parametrize("protected", [True, False])
def test_links_among_static_files_are_not_compressed_for_nginx_to_serve(ground: Ground, protected: bool) -> None:
    """Whoever runs it: as root the files are anybody's, in a container they are its own and its volumes'."""
    secret = ground.roots / "secret"
    secret.write_text("root's own\n" * 500)
    secret.chmod(0o600)
    public = ground.of_attacker("public")
    turns = found = 0
    with attack(STATIC_LINKS, public, secret) as tries:
        while turns < TRIES and not (found and not protected):
            turns += 1
            with contextlib.suppress(OSError):
                (compress if protected else former_compress)(public, (".css",))
            found += any(gzip.decompress(path.read_bytes())[:6] == b"root's" for path in public.glob("*.gz"))
    print(f"{tries[0]:,} tries beside {turns:,} turns: root's file was copied {found} times")
    assert (found == 0) == protected
    secret.unlink()
    assert ground.untouched()


SWAP_RELEASE = """
import os, sys
release, roots = sys.argv[1:]
os.chdir(release)
def attack():
    for name in os.listdir("."):
        if os.path.isdir(name) and not os.path.islink(name):
            try:
                os.rename(name, name + "x")
                os.symlink(roots, name)
            except OSError:
                pass
        os.makedirs(name + "/deeper", exist_ok=True)
"""


def test_a_release_is_removed_without_following_where_its_project_leads(ground: Ground) -> None:
    release = ground.root / "release"
    turns = 0
    for _number in range(20):
        release.mkdir()
        project = ground.of_attacker("release/project")
        for number in range(10):
            ground.of_attacker(f"release/project/{number}")
        with attack(SWAP_RELEASE, project, ground.roots) as tries:
            for _again in range(TRIES // 20):
                turns += 1
                with contextlib.suppress(OSError):
                    shutil.rmtree(release)
                if not release.exists():
                    break
        shutil.rmtree(release, ignore_errors=True)
    print(f"{tries[0]:,} tries in the last of {turns:,} turns")
    assert ground.untouched()


def test_a_release_of_a_former_version_is_root_s_again(ground: Ground) -> None:
    """It was the instances' user's, all of it: links and open files may be anywhere."""
    paths = paths_of(ground)
    release = paths.releases / "0123456789ab"
    for path in (release, release / "project", release / "runtime", release / "secrets", release / "public"):
        path.mkdir(parents=True)
    for name in ("config.json", "parts.json", "complete", "runtime/code.py", "project/manage.py", "secrets/secret_key"):
        (release / name).write_text("{}")
    (release / "project.json").symlink_to(ground.canary)
    (release / "migrated").symlink_to(ground.canary)
    (release / "environment").symlink_to("../../environments/fedcba987654")
    for path in (release, *release.rglob("*")):
        os.chown(path, owner().uid, owner().gid, follow_symlinks=False)
    os.link(ground.canary, release / "runtime" / "linked.py")
    with (release / "config.json").open("a") as held:
        Builder(paths, owner(), print).ownership.reclaim()
        held.write("hostile")
    assert (release / "config.json").read_text() == "{}"
    assert not (release / "project.json").exists()
    theirs = {str(path.relative_to(release)) for path in release.rglob("*") if path.lstat().st_uid == owner().uid}
    assert theirs == {"project", "project/manage.py", "public", "secrets/secret_key"}
    (release / "runtime" / "linked.py").unlink()
    assert ground.untouched()


def test_what_the_project_says_of_itself_is_anybody_s_word(ground: Ground) -> None:
    said = ground.root / "project.json"
    hostile = ["", "\0", "[]", "[" * 100_000, '{"static_url": "' + "x" * 2_000_000 + '"}']
    for text in hostile:
        said.write_text(text)
        assert _told(said) == {}
    said.write_text(json.dumps({"static_url": "/\x1b[2J/", "list": [{"\x1bkey": "\x9b"}]}))
    assert not set(str(_told(said))) & {"\x1b", "\x9b"}
    said.unlink()
    said.symlink_to(ground.canary)
    assert _told(said) == {}


# --- sockets and process ids

FALSE_SUPERVISOR = """
import os, socket, sys
run, canary = sys.argv[1:]
os.chdir(run)
listener = socket.socket(socket.AF_UNIX)
listener.bind("mine")
listener.listen(64)
os.chmod("mine", 0o777)
def attack():
    for name, put in (("supervisor.sock", os.link), ("nginx.pid", os.symlink), ("nginx.closing", os.symlink)):
        try:
            os.unlink(name)
        except FileNotFoundError:
            pass
        put("mine" if put is os.link else canary, name)
"""

PATIENTLY = """
import time
def attack():
    time.sleep(0.01)
"""


TOPOLOGY = build_topology(parse_config(stack_values(upstream={"servers": 1}, sessions={"engine": "cache"})))


def paths_of(ground: Ground) -> LocalPaths:
    paths = LocalPaths(ground.root, "t")
    paths.state.mkdir(parents=True)
    return paths


def former_make_run(self: LocalPaths, owner: Owner, *_names: object) -> None:
    self.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    self.run.chmod(0o700)
    os.chown(self.run, owner.uid, owner.gid)


@pytest.mark.parametrize("protected", [True, False])
def test_another_supervisor_s_socket_is_never_believed(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    """Also where a former version has left the directory to the instances, who are at it at this moment."""
    paths = paths_of(ground)
    paths.run.mkdir()
    os.chown(paths.run, owner().uid, owner().gid)
    if not protected:
        monkeypatch.setattr(LocalPaths, "make_run", former_make_run)
        monkeypatch.setattr(supervisors, "_listener", lambda _connection: 0)
    believed = turns = 0
    with attack(FALSE_SUPERVISOR, paths.run, ground.canary) as tries:
        for _number in range(20):
            paths.run.chmod(0o755)
            os.chown(paths.run, owner().uid, owner().gid)  # as a former version leaves it
            paths.make_run(owner(), TOPOLOGY.services)
            for _again in range(TRIES // 20):
                turns += 1
                believed += _connects(paths)
                with contextlib.suppress(OSError):
                    paths.nginx_pid.write_text("1")  # as nginx does, as root
                with contextlib.suppress(OSError):
                    paths.closing.touch()
    print(f"{tries[0]:,} tries beside {turns:,} turns: believed {believed} times")
    assert (believed == 0) == protected
    assert ground.untouched() == protected
    if protected:
        assert (paths.run.stat().st_uid, stat.S_IMODE(paths.run.stat().st_mode)) == (0, 0o750)


def _connects(paths: LocalPaths) -> bool:
    connection = supervisors._Connection(str(paths.supervisor_socket))
    connection.timeout = 5
    try:
        connection.connect()
    except (OSError, SupervisorError):
        return False
    else:
        return True
    finally:
        connection.close()


def test_a_supervisor_of_another_user_is_an_error_and_not_one_that_is_down(ground: Ground) -> None:
    paths = paths_of(ground)
    paths.run.mkdir()
    patient = FALSE_SUPERVISOR.partition("def attack")[0] + "os.link('mine', 'supervisor.sock')\n" + PATIENTLY
    with attack(patient, _given(paths.run), ground.canary):
        for ask in (Supervisor(paths).is_running, Supervisor(paths).processes):
            with pytest.raises(SupervisorError, match="another user listens there"):
                ask()


def _given(path: Path) -> Path:
    os.chown(path, owner().uid, owner().gid)
    return path


def test_a_run_directory_that_is_a_link_or_another_user_s_is_refused(ground: Ground) -> None:
    paths = paths_of(ground)
    paths.run.symlink_to(ground.roots)
    with pytest.raises(PathError, match="not a directory"):
        paths.make_run(owner(), [])
    paths.run.unlink()
    paths.run.mkdir()
    os.chown(paths.run, 4321, 4321)
    with pytest.raises(PathError, match="belongs to somebody else"):
        paths.make_run(owner(), [])
    assert ground.untouched()


def test_a_running_memcached_of_a_former_version_keeps_its_place(ground: Ground) -> None:
    paths = paths_of(ground)
    node = memcached_node(TOPOLOGY.config, 1)
    found_at, listens = paths.run / "memcached1.sock", paths.listens(node)
    paths.run.mkdir()
    _given(paths.run)
    with socket.socket(socket.AF_UNIX) as former:
        former.bind(str(found_at))
        former.listen(8)
        os.chown(found_at, owner().uid, owner().gid)
        (paths.run / "memcached1.sock.state").write_bytes(b"\1" * 64)
        os.chown(paths.run / "memcached1.sock.state", owner().uid, owner().gid)
        for _again in range(2):
            paths.make_run(owner(), TOPOLOGY.services)
            paths.make_memcached(owner(), node)
            for path in (found_at, listens):
                assert supervisors.accepts(path), path
        assert found_at.is_symlink()
        assert (paths.run / "memcached1.sock.state").read_bytes() == b"\1" * 64, "what instances know of it is lost"


# --- whom root believes at all


def test_a_repository_that_the_instances_user_can_write_is_refused(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = ground.of_attacker("site") / ".cluster" / "t"
    monkeypatch.delenv("SUDO_UID", raising=False)
    with pytest.raises(PathError, match=f"{state.parent.parent}: the instances run as www-data, who can write it"):
        owners.find_owner(state)
    monkeypatch.setenv("SUDO_UID", str(owner().uid))
    assert "say this without sudo" in owners.find_owner(state).warning


def test_a_stack_of_another_user_is_left_to_that_user(ground: Ground) -> None:
    state = ground.of_attacker("t")
    with pytest.raises(PathError, match="belongs to www-data; say this as www-data"):
        owner().hold_own(state)


# --- whom the project's code can reach


TYPES_INTO_THE_TERMINAL = """
import fcntl, os, sys, termios
done = 0
for opened in (lambda: os.open("/dev/tty", os.O_RDWR), lambda: 0, lambda: 1, lambda: 2):
    try:
        for byte in b"touch /tmp/owned\\n":
            fcntl.ioctl(opened(), termios.TIOCSTI, bytes([byte]))
        done += 1
    except OSError:
        pass
print("typed", done, "groups", os.getgroups(), flush=True)
"""


@pytest.mark.parametrize("protected", [True, False])
def test_a_command_of_the_project_types_nothing_into_root_s_terminal(ground: Ground, protected: bool) -> None:
    """`cluster manage` has the terminal of whoever says it (TIOCSTI; newer kernels have it switched off)."""
    run = run_as_owner if protected else former_run
    child, terminal = pty.fork()
    if child == 0:
        command = [sys.executable, "-I", "-c", TYPES_INTO_THE_TERMINAL]
        with contextlib.suppress(BaseException):
            run(command, owner(), ground.root, {})
        os._exit(0)
    said = b""
    with contextlib.suppress(OSError):  # the terminal of one that has ended
        while b"groups" not in said or not said.endswith(b"\n"):
            said += os.read(terminal, 4096)
    os.waitpid(child, 0)
    os.close(terminal)
    typed = re.search(rb"typed (\d+) groups \[([^\]]*)\]", said)
    assert typed is not None, said
    if not protected and typed[1] == b"0":
        pytest.skip("this kernel lets nobody type into a terminal (dev.tty.legacy_tiocsti)")
    assert (typed[1] == b"0") == protected
    assert typed[2] == b""


def run_as_owner(command: list[str], owner: Owner, directory: Path, environment: dict[str, str]) -> int:
    identity = owner.subprocess_options()
    return run_here(Invocation(command=command, environment=environment, directory=directory, identity=identity))


def former_run(command: list[str], owner: Owner, directory: Path, environment: dict[str, str]) -> int:
    return subprocess.run(command, cwd=directory, env=environment, check=False, **owner.subprocess_options()).returncode


def test_an_instance_gets_no_groups_but_its_user_s_own(ground: Ground) -> None:
    words = owner().alone(ground.root)
    assert words, "setpriv and env are part of every Debian and Ubuntu"
    code = "import os; print(os.getresuid(), os.getresgid(), os.getgroups(), os.getcwd())"
    done = subprocess.run([*words, sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    uid, gid = owner().uid, owner().gid
    assert done.stdout.strip() == f"{(uid,) * 3} {(gid,) * 3} [] {ground.root}"
