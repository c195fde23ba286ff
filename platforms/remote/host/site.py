"""Puts a site's file in place beside those of others: checked, swapped, reloaded once; put back where that fails."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platforms.remote.host.asking import ask
from platforms.remote.host.running import HostError, is_active, output, put, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from platforms.remote.host.paths import HostPaths

#: Seconds for which responses end their connections before a reload (nginx before 1.27.4), and after it.
CLOSING, SETTLING = 2.0, 1.0

#: Seconds after which is looked again whether they still do.
LOOK_AGAIN = 0.1

#: Seconds after which that ends where a reload that was to come does not.
LONGEST_CLOSING = 30.0

#: Seconds that nginx has to take a configuration.
TAKEN_WITHIN = 20.0

#: Seconds that former workers are waited for: a download may keep one for hours.
ENDED_WITHIN = 20.0

#: What is to be done where the stack asks for all names, and a site that is there does too.
SECOND_DEFAULT = (
    "another site of this host has all names of that port: disable it (the distribution's own is "
    "/etc/nginx/sites-enabled/default), or let site.server_names say the site's names in place of _"
)

SECRET, ROOTS, NGINXS = 0o600, 0o644, 0o640


def deliver(places: HostPaths, wanted: dict[str, Any]) -> None:
    """Put the site's configuration in place; HostError, and the former one serves on, where nginx refuses it.

    wanted: as `swap`, with `users`; `relays` and `shown`, as `knocking.check_relays`: these must answer before.
    """
    from platforms.remote.host.knocking import check_relays  # noqa: PLC0415 - who only looks knocks nowhere

    check_relays(wanted["shown"], wanted["relays"])
    former = _Former(places)
    former.keep(places.users)
    if wanted["users"]:
        _write_users(places, wanted["users"])  # before a worker asks for them
    swap(places, wanted, places.internal, former)
    if not wanted["users"] and places.users.exists():
        _await_former_workers()
        places.users.unlink(missing_ok=True)


def swap(places: HostPaths, wanted: dict[str, Any], internal: Path, former: _Former | None = None) -> None:
    """Put a configuration in place; HostError, and the former one serves on, where nginx refuses it.

    wanted: `files`, `private` and `links` by their paths from nginx's directory, `digest`, and `polite`: whether
    clients' connections are closed before a reload. `gone`: files that are to be there no more.
    internal: the socket on which nginx tells that digest. former: keeps what is put back where that fails.
    """
    former = former or _Former(places)
    changed = _write(places, wanted, former)
    told = ask(internal, "/-/config")
    if changed or told != wanted["digest"]:
        checked = output("nginx", "-t", "-q")
        if checked.returncode != 0:
            former.put_back()
            said = checked.stderr.strip()
            hint = f"\n{SECOND_DEFAULT}" if "duplicate default server" in said else ""
            raise HostError(f"nginx -t refuses the configuration; the former one serves on:\n{said}{hint}")
        _take(places, wanted, internal, former, runs=told is not None)
    former.forget()


class _Former:
    """What stood where a configuration was put, until that is taken."""

    def __init__(self, places: HostPaths) -> None:
        self.kept: dict[Path, tuple[Path | str | None, bool]] = {}
        self.directory = places.state / "former-site"
        if self.directory.exists():
            shutil.rmtree(self.directory)
        self.directory.mkdir(mode=0o700)

    def keep(self, path: Path) -> None:
        """Keep what is at a path."""
        if path.is_symlink():
            self.kept[path] = (str(path.readlink()), True)
        elif path.exists():
            copy = self.directory / str(len(self.kept))
            shutil.copy2(path, copy)
            os.chown(copy, 0, path.stat().st_gid)
            self.kept[path] = (copy, False)
        else:
            self.kept[path] = (None, False)

    def put_back(self) -> None:
        """Let all be as it was."""
        for path, (former, is_link) in self.kept.items():
            path.unlink(missing_ok=True)
            if former is not None and is_link:
                path.symlink_to(former)
            elif former is not None:
                path.touch(mode=SECRET)  # so that a key is nobody else's while it is being copied
                shutil.copy2(former, path)
                os.chown(path, 0, Path(former).stat().st_gid)
        self.forget()

    def forget(self) -> None:
        """Need it no more."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _write(places: HostPaths, wanted: dict[str, Any], former: _Former) -> bool:
    """Write the files and links; tell whether one says something else than before."""
    changed = False
    files = {path: (text, ROOTS) for path, text in wanted["files"].items()}
    files |= {path: (text, SECRET) for path, text in wanted["private"].items()}
    for name, (text, mode) in sorted(files.items()):
        path = places.nginx / name
        former.keep(path)
        changed |= put(path, text, mode)
    for name, target in sorted(wanted["links"].items()):
        path = places.nginx / name
        former.keep(path)
        if path.is_symlink() and str(path.readlink()) == target:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        new.rename(path)
        changed = True
    for name in wanted.get("gone", ()):
        former.keep(places.nginx / name)
        (places.nginx / name).unlink()
        changed = True
    return changed


def _take(places: HostPaths, wanted: dict[str, Any], internal: Path, former: _Former, *, runs: bool) -> None:
    """Let nginx take what is in place, which it has accepted."""

    def taken() -> bool:
        return bool(ask(internal, "/-/config") == wanted["digest"])

    if not reload_until(places, taken, polite=runs and wanted["polite"]):
        former.put_back()
        output("systemctl", "reload", "nginx.service")
        log = output("journalctl", "--unit", "nginx.service", "--output=cat", "--lines", "5").stdout.strip()
        raise HostError(f"nginx did not take the configuration within {TAKEN_WITHIN:g} s:\n{log}")


def reload_until(places: HostPaths, taken: Callable[[], bool], *, polite: bool) -> bool:
    """Reload nginx once, or start it, and wait until it has taken what is in place; tell whether it has.

    polite: connections of busy clients are closed before, response by response.
    """
    active = is_active("nginx.service")
    with _closing(places) if polite and active else contextlib.nullcontext():
        if active:
            run("systemctl", "reload", "nginx.service", problem="nginx can't be reloaded")
        else:
            run("systemctl", "restart", "nginx.service", problem="nginx can't be started")
        deadline = time.monotonic() + TAKEN_WITHIN
        while not taken():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
    return True


@contextlib.contextmanager
def _closing(places: HostPaths) -> Iterator[None]:
    """Let each response end its connection for a while: a reload of this nginx closes idle ones.

    Whoever has begun that takes it away again when he needs it no more: then the while begins anew.
    """
    since = _closing_since(places)
    own = _close(places, since)
    try:
        while (left := since + CLOSING - _now()) > 0:
            time.sleep(min(left, LOOK_AGAIN))
            if not places.closing.exists():
                since = _now()
                own = _close(places, since)
        yield
    except BaseException:
        _stop_closing(places, own)
        raise
    _settle(places)


def hold_closing(places: HostPaths, ended: Callable[[float], object]) -> None:
    """Let responses end their connections before a reload that is soon to come, which waits for so much less then.

    ended: waits so many seconds, or until nobody needs it any more. Where a reload has come meanwhile it is that one's;
    where one is under way nothing is to be done.
    """
    own = _sign(_now())
    try:
        with _written(places, own) as new:
            os.link(new, places.closing)  # at once with all that it says: nobody takes half of it for another's
    except FileExistsError:
        return
    try:
        ended(LONGEST_CLOSING)
    finally:
        _stop_closing(places, own)


def _now() -> float:
    """Return the seconds since boot: nobody sets that clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _sign(since: float) -> str:
    """Return what says since when responses end their connections, and that it is nobody else who wants it."""
    return f"{since} {secrets.token_hex(8)}"


def _close(places: HostPaths, since: float) -> str:
    """Let responses end their connections, or go on to; return what tells it from what others want."""
    own = _sign(since)
    with _written(places, own) as new:
        new.replace(places.closing)
    return own


@contextlib.contextmanager
def _written(places: HostPaths, own: str) -> Iterator[Path]:
    """Yield a file that says it, beside the one that lets responses end their connections."""
    new = places.closing.with_name(f".{places.closing.name}.{os.getpid()}")
    try:
        new.write_text(own, encoding="ascii")
        yield new
    finally:
        new.unlink(missing_ok=True)


def _closing_since(places: HostPaths) -> float:
    """Return since when responses end their connections: from now on, where nothing says another time."""
    now = _now()
    try:
        return min(now, float(places.closing.read_text(encoding="ascii").split()[0]))
    except (OSError, ValueError, IndexError):
        return now


def _stop_closing(places: HostPaths, own: str) -> None:
    """Let connections be kept again, where nobody else wants them to end."""
    with contextlib.suppress(FileNotFoundError):
        if places.closing.read_text(encoding="ascii") == own:
            places.closing.unlink()


def _settle(places: HostPaths) -> None:
    """Let connections be kept again once former workers are surely told to end; nobody waits for that."""
    own = _close(places, _now())
    # Before the fork: a unit's end is told to all that it has started, and may come before the fork does anything.
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP, signal.SIGINT})
    try:
        child = os.fork()
    except OSError:  # no process may be had: so it is this one
        child = None
    if child == 0:
        try:
            os.setsid()
            os.closerange(0, os.sysconf("SC_OPEN_MAX"))  # the command ends, and its lock is free
            time.sleep(SETTLING)
            _stop_closing(places, own)
        finally:
            os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, former)
    if child is None:
        time.sleep(SETTLING)
        _stop_closing(places, own)


def _write_users(places: HostPaths, users: str) -> None:
    """Put the users in place for whom nginx asks; its workers read them with each request."""
    put(places.users, users, NGINXS)
    os.chown(places.users, 0, places.own_nginx.stat().st_gid)


def _await_former_workers() -> None:
    """Wait a while until nginx's former workers, which may still ask for users, have ended."""
    deadline = time.monotonic() + ENDED_WITHIN
    while _has_former_workers() and time.monotonic() < deadline:
        time.sleep(0.1)


def _has_former_workers() -> bool:
    said = output("ps", "-eo", "args=").stdout
    return any(line.startswith("nginx: worker process is shutting down") for line in said.splitlines())


def withdraw(places: HostPaths) -> None:
    """Take the site away from a host that has no visitors any more; what it does for other hosts goes on."""
    take_away(places, f"zz-{places.name}")


def remove(places: HostPaths) -> None:
    """Take all files of the stack away; other sites serve on."""
    take_away(places, f"zz-{places.name}", places.relay_site.name)
    shutil.rmtree(places.own_nginx, ignore_errors=True)


def take_away(places: HostPaths, *names: str) -> None:
    """Remove files of sites, by their names, and let nginx forget them."""
    there = [places.nginx / directory / name for directory in ("sites-enabled", "sites-available") for name in names]
    found = [path for path in there if path.is_symlink() or path.exists()]
    for path in found:
        path.unlink()
    if found and output("nginx", "-t", "-q").returncode == 0:
        output("systemctl", "reload", "nginx.service")
