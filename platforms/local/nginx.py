"""nginx on this machine: finding it, checking a configuration, putting it in place, reloading."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import http.client
import json
import os
import shutil
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from cluster.kept import HurtFile, make_way, point_at, read_kept, remove_tree, sync_tree, write_durably, write_kept
from cluster.machine.nginx import NginxError, find_nginx, refusal, version_of
from cluster.render.acme import LOCATION
from cluster.render.nginx import SITE
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE
from cluster_runtime import unfollowed
from cluster_runtime.unix_http import UnixConnection
from platforms.local.orphans import Kind, stack_processes
from platforms.local.supervisor import put_pid
from platforms.local.supervisor_files import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster.machine.owner import Owner
    from cluster.render.nginx import NginxConfig
    from platforms.local.paths import LocalPaths
    from platforms.local.supervisor import Process, Supervisor

PROGRAM = "nginx"

#: In a configuration's directory: the stack that it was rendered from.
STACK = "stack.json"
KEPT_STACK: TypeAdapter[dict[str, object]] = TypeAdapter(dict[str, object])

#: Seconds that an old nginx closes busy clients' connections politely, before a reload closes the idle ones.
CLOSING_SECONDS = 2.0

#: Seconds that an old nginx's old workers may take, after the new ones serve, to close the connections they keep.
SETTLING_SECONDS = 1.0

#: An nginx that ends says so of its own socket where somebody has removed that: no word about a configuration.
GONE = " unlink() "

#: What a worker calls itself that accepts nothing more.
ENDING = "shutting down"

#: Seconds until a reloaded nginx must tell its new digest.
RELOAD_SECONDS = 20.0


def running_binary(paths: LocalPaths, installed: str) -> str | None:
    """Return a path of the program that this stack's nginx runs, where that is not the installed one (any more).

    The kernel keeps it, also when the package was upgraded since and its file is gone.
    """
    for process in stack_processes(paths):
        if process.kind is Kind.NGINX:
            binary = f"/proc/{process.pid}/exe"
            with contextlib.suppress(OSError):  # it has just ended
                return None if os.path.samefile(binary, installed) else binary  # noqa: PTH121 - a link to no path
    return None


def told_on(socket: Path, path: str) -> str | None:
    """Return what nginx tells on its internal socket; None where it does not answer, or tells nothing there."""
    connection = UnixConnection(str(socket), timeout=2.0)
    try:
        connection.request("GET", path, headers={"Host": "internal"})
        response = connection.getresponse()
        text = response.read().decode("ascii").strip()
    except (OSError, http.client.HTTPException, UnicodeDecodeError):
        return None
    else:
        return text if response.status == http.client.OK else None
    finally:
        connection.close()


class Nginx:
    """This stack's nginx.

    version: what runs and is told its configuration; where none runs, what is installed.
    """

    def __init__(self, paths: LocalPaths, supervisor: Supervisor, owner: Owner) -> None:
        self.paths = paths
        self.supervisor = supervisor
        self.owner = owner
        self.path, self.installed = find_nginx()
        # A running one is only as new as it was when it was started: it would refuse what a newer one understands.
        self.running = running_binary(paths, self.path)
        self.version = version_of(self.running) if self.running else self.installed
        # Of a reload that an `up` was killed before: what is in place has the same digest as what runs.
        self.reload_wanted = self._untold.exists()

    @property
    def user(self) -> str | None:
        """What nginx's `user` directive says, which only root's nginx needs; the group where it has another name."""
        if os.geteuid() != 0:
            return None
        try:
            group = grp.getgrgid(self.owner.gid).gr_name
        except KeyError:
            return self.owner.name
        return self.owner.name if group == self.owner.name else f"{self.owner.name} {group}"

    def program(self) -> Program:
        """Return what Supervisor runs."""
        script = Path(__file__).with_name("start-nginx.sh")
        conf = self.paths.nginx / "current" / "nginx.conf"
        log = self.paths.logs / "error.log"
        start = (self.path, "-p", str(self.paths.state), "-e", str(log), "-c", str(conf), "-g", "daemon off;")
        return Program(
            name=PROGRAM,
            command=("/bin/sh", str(script), str(self.paths.nginx_socket), *start),
            directory=str(self.paths.state),
            log=str(self.paths.logs / "nginx.log"),
            priority=900,
            stop_signal="QUIT",
            stop_seconds=60,
        )

    def live_digest(self) -> str | None:
        """Return the digest of the configuration that nginx runs; None where it does not answer."""
        return told_on(self.paths.nginx_socket, "/-/config")

    def live_maintenance(self) -> str | None:
        """Return the digest of the maintenance that nginx runs, empty for none; None where it does not tell."""
        return told_on(self.paths.nginx_socket, "/-/maintenance")

    def live_certificate(self) -> str | None:
        """Return which certificate by ACME nginx has read, and for which account; None where it does not tell."""
        return told_on(self.paths.nginx_socket, LOCATION)

    @property
    def _untold(self) -> Path:
        """There while what is in place was not loaded yet, though nginx tells its digest."""
        return self.paths.nginx / "untold"

    def is_in_place(self, config: NginxConfig) -> bool:
        """Tell whether this configuration is the one that nginx would load; one edited by hand is not."""
        current = self._current()
        held = current is not None and current.name == config.digest[:12] and _holds(current, config)
        return held and self.has_users(config)

    def has_users(self, config: NginxConfig) -> bool:
        """Tell whether nginx's workers read the users of this configuration; where it has none, they read nothing."""
        return not config.users or self._users() == config.users

    def _users(self) -> str:
        try:
            return self.paths.users.read_text(encoding="ascii", errors="replace")
        except OSError:
            return ""

    def _put_users(self, users: str) -> None:
        """Let nginx's workers read who may enter, and nobody else but who runs as they do."""
        if users and users != self._users():
            new = self.paths.users.with_name(f".{self.paths.users.name}.next")
            write_durably(new, users)
            self.owner.let_read(new, 0o640 if self.owner.changed else 0o600)
            make_way(self.paths.users, stat.S_IFREG)
            new.rename(self.paths.users)

    def _asked_before(self) -> bool:
        """Tell whether the configuration in place asks for a user: its workers still read the file."""
        return "auth_basic_user_file " in self.current_text(SITE)

    def current_text(self, path: str) -> str:
        """Return the text of a file of the configuration in place; empty where there is none."""
        try:
            return (self.paths.nginx / "current" / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""  # hurt: then it is put in place anew

    def put_back(self, config: NginxConfig, stack: dict[str, object], process: Process | None) -> None:
        """Write again what is of no matter to nginx, which runs as `process`, and was hurt beside what it runs."""
        if self.is_in_place(config):
            self._write_stack(self.paths.nginx / "current", stack)
        if process is not None and process.pid:
            put_pid(self.paths.nginx_pid, process.pid)

    def _write_stack(self, directory: Path, stack: dict[str, object]) -> None:
        if _stack_in(directory) is None:
            write_kept(directory / STACK, stack)

    def current_stack(self) -> dict[str, object] | None:
        """Return the stack's configuration that the one in place was rendered from."""
        return _stack_in(self.paths.nginx / "current")

    def write(self, config: NginxConfig, stack: dict[str, object]) -> Path:
        """Write a configuration beside the one in place, and check it; NginxError has nginx's own words."""
        directory = self.paths.nginx / config.digest[:12]
        if not config.users and not self._asked_before():
            self.paths.users.unlink(missing_ok=True)
        if not _holds(directory, config):
            new = directory.with_suffix(".new")
            remove_tree(new)
            for path, text in {**config.files, STACK: json.dumps(stack)}.items():
                (new / path).parent.mkdir(parents=True, exist_ok=True)
                (new / path).write_text(text, encoding="utf-8")
            for path, text in config.private.items():
                write_durably(new / path, text)
            for path, target in config.links.items():
                (new / path).parent.mkdir(parents=True, exist_ok=True)
                (new / path).symlink_to(target)
            self._check(new, but_for=None)
            self._swap(new, directory)
        self._write_stack(directory, stack)
        self._check(directory, but_for=self._current())
        return directory

    def check_in_place(self) -> None:
        """Check the configuration in place with what it includes; NginxError has nginx's own words."""
        current = self.paths.nginx / "current"
        self._check(current, but_for=current)

    def _swap(self, new: Path, directory: Path) -> None:
        """Put a checked directory in the place of one of the same name: hurt, or with another key."""
        if directory == self._current():
            self._untold.touch()
        former = directory.with_suffix(".former")
        remove_tree(former)
        if directory.exists():
            directory.rename(former)
        new.rename(directory)
        remove_tree(former)

    def _check(self, directory: Path, *, but_for: Path | None) -> None:
        """Let nginx check a configuration; NginxError where it refuses it, which is then removed `but_for` one."""
        # A check opens the sockets of the configuration, and removes them: the running nginx's must not be among them.
        words = refusal(self.running or self.path, directory / "nginx.conf", self.paths.state)
        if words is not None:
            if directory != but_for:
                shutil.rmtree(directory)
            raise NginxError(f"nginx -t refuses the configuration:\n{words}")

    def _current(self) -> Path | None:
        link = self.paths.nginx / "current"
        return self.paths.nginx / link.readlink() if link.is_symlink() else None

    def _point_at(self, directory: Path) -> None:
        sync_tree(self.paths.nginx)
        point_at(self.paths.nginx / "current", directory.name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from reloading: waits until they have. The kernel lets go where the holder dies."""
        descriptor = unfollowed.open_lock(self.paths.nginx / "lock", 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def put_in_place(self, directory: Path, config: NginxConfig, *, reload: bool) -> None:
        """Make a checked configuration the current one, and let nginx run it; on failure the former one is put back.

        reload: whether it ran before; else one that answers was started since then, with what was in place.
        """
        with self.locked():
            self._put_in_place(directory, config, reload=reload)

    def _put_in_place(self, directory: Path, config: NginxConfig, *, reload: bool) -> None:
        digest, former, users = config.digest, self._current(), self._users()
        self._point_at(directory)
        self._put_users(config.users)
        try:
            live = self.live_digest()
            if live is None:
                self._start(digest)
            elif reload or live != digest or former != directory:
                self.reload(lambda: self.live_digest() == digest)
            self._untold.unlink(missing_ok=True)
        except NginxError:
            if former is not None:
                self._point_at(former)
            else:
                (self.paths.nginx / "current").unlink()
            self._put_users(users)
            raise
        if not config.users and self.paths.users.exists():
            self._await_former_workers()
            self.paths.users.unlink(missing_ok=True)

    def _await_former_workers(self) -> None:
        """Wait until workers of the former configuration have ended, who ask by its users.

        Those that are busy for longer have asked long ago.
        """
        deadline = time.monotonic() + RELOAD_SECONDS
        process = self.supervisor.processes().get(PROGRAM)
        while process is not None and time.monotonic() < deadline and _has_former_workers(process.pid):
            time.sleep(0.1)

    def _start(self, digest: str) -> None:
        self.paths.closing.unlink(missing_ok=True)
        began = self._error_log_size()
        self.supervisor.stop([PROGRAM])  # one that runs, and can't be asked any more: its socket was removed
        self.supervisor.ensure([self.program()])
        try:
            self._wait_for(lambda: self.live_digest() == digest, began)
        except NginxError:
            self.supervisor.remove([PROGRAM])
            raise

    def reload(self, taken: Callable[[], bool]) -> None:
        """Let nginx load what is in place; NginxError where it does not take it, as `taken` tells."""
        polite = self.version < KEEPALIVE_MIN_TIMEOUT_SINCE
        if polite:
            make_way(self.paths.closing, stat.S_IFREG)
            self.paths.closing.touch()
            time.sleep(CLOSING_SECONDS)
        began = self._error_log_size()
        try:
            self.supervisor.signal(PROGRAM, "HUP")
            self._wait_for(taken, began)
            if polite:
                time.sleep(SETTLING_SECONDS)
        finally:
            self.paths.closing.unlink(missing_ok=True)

    def _wait_for(self, taken: Callable[[], bool], log_offset: int) -> None:
        deadline = time.monotonic() + RELOAD_SECONDS
        while not taken():
            complaint = self._emergency_since(log_offset)
            if complaint:
                raise NginxError(f"nginx does not take the configuration:\n{complaint}")
            if time.monotonic() > deadline:
                raise NginxError(f"nginx did not take the configuration within {RELOAD_SECONDS:g} s; see its error.log")
            time.sleep(0.05)

    def _error_log_size(self) -> int:
        log = self.paths.logs / "error.log"
        return log.stat().st_size if log.exists() else 0

    def _emergency_since(self, offset: int) -> str:
        log = self.paths.logs / "error.log"
        if not log.exists():
            return ""
        with log.open("rb") as file:
            file.seek(offset)
            lines = file.read().decode("utf-8", "replace").splitlines()
        return "\n".join(line for line in lines if "[emerg]" in line and GONE not in line)

    def forget_others(self) -> None:
        """Remove configurations that are not in place."""
        current = self._current()
        for directory in self.paths.nginx.iterdir():
            if directory.is_dir() and not directory.is_symlink() and directory != current:
                shutil.rmtree(directory)


def _has_former_workers(pid: int) -> bool:
    """Tell whether a process of nginx's has workers that serve by what was loaded before a reload."""
    import psutil  # noqa: PLC0415 - takes its time

    with contextlib.suppress(psutil.NoSuchProcess):
        return any(ENDING in " ".join(one.cmdline()) for one in psutil.Process(pid).children())
    return False


def _holds(directory: Path, config: NginxConfig) -> bool:
    """Tell whether the files of a configuration are in `directory` as they were rendered."""
    try:
        files = {**config.files, **config.private}
        return all((directory / path).read_bytes() == text.encode() for path, text in files.items()) and all(
            str((directory / path).readlink()) == target for path, target in config.links.items()
        )
    except OSError:
        return False


def _stack_in(directory: Path) -> dict[str, object] | None:
    """Return the stack that a configuration was rendered from; None where that was hurt."""
    try:
        return read_kept(directory / STACK, KEPT_STACK)
    except HurtFile:
        return None
