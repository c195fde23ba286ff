"""Makes what a stack needs of a host: its user, its directories, its units, the distribution's nginx."""

from __future__ import annotations

import pwd
import shutil
from typing import TYPE_CHECKING, Any

from platforms.remote.host import credentials
from platforms.remote.host.installing import install
from platforms.remote.host.paths import NGINX_USER
from platforms.remote.host.releases import units_there
from platforms.remote.host.running import HostError, directory_of, has_user, is_so, put, run

if TYPE_CHECKING:
    from platforms.remote.host.paths import HostPaths


#: What the template of a service is called here, before its name.
SERVICE = "service "


def set_up(places: HostPaths, wanted: dict[str, Any]) -> None:
    """Make it, where it is not there yet.

    wanted: `owner` says whose stack this is, `made_by` by which resource of its program; `unit` (where instances run),
    `nginx_unit` (where nginx does), `tmpfiles`, `authority` and `service NAME` are texts; `filesystem` is as
    `filesystem.record` has it. HostError where it is another program's.
    """
    claim(places, wanted["owner"])
    put(places.made_by, f"{wanted['made_by']}\n")
    if "nginx_unit" in wanted and shutil.which("nginx") is None:
        install("nginx")
    shared = wanted.get("filesystem")
    _make_user(places, None if shared is None else shared["number"])
    _make_directories(places, shares=shared is not None)
    # Instances that go with the host's role ask for it until they do.
    goes_later = shared is None and "unit" not in wanted and places.unit.is_file()
    if shared is not None or (places.shared_filesystem() and not goes_later):
        from platforms.remote.host import filesystem  # noqa: PLC0415 - most stacks have none

        filesystem.record(places, shared, wanted["owner"])
    if "unit" in wanted and not is_so(places.unit, wanted["unit"]):
        credentials.check(places)
        # What runs may start again at any moment, then by the other template.
        credentials.give(places, units_there(places) | places.enabled())
    changed = _tell_systemd(places, wanted)
    put(places.tmpfiles, wanted["tmpfiles"])
    if "authority" in wanted:
        put(places.authority, wanted["authority"])
    run("systemd-tmpfiles", "--create", str(places.tmpfiles))
    if changed:
        run("systemctl", "daemon-reload")
        places.not_read.unlink()


def _tell_systemd(places: HostPaths, wanted: dict[str, Any]) -> bool:
    """Put units in place; tell whether systemd is still to read them, also of a set-up that was killed before that."""
    texts = {places.unit: wanted.get("unit"), places.nginx_unit: wanted.get("nginx_unit")}
    texts |= {
        places.template_of(name.removeprefix(SERVICE)): wanted[name] for name in wanted if name.startswith(SERVICE)
    }
    others = {path: text for path, text in texts.items() if text is not None and not is_so(path, text)}
    if others:
        put(places.not_read, "")
    for path, text in others.items():
        put(path, text)
    return places.not_read.is_file()


def claim(places: HostPaths, owner: str) -> None:
    """Say whose stack this is; HostError where it is somebody else's already.

    owner: the program and its stack, and what tells its stack file from another of that name.
    """
    try:
        found = places.owner.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        places.state.mkdir(parents=True, exist_ok=True)
        put(places.owner, f"{owner}\n")
        return
    if found == owner.partition(" ")[0]:  # said by a set-up that knew no more
        put(places.owner, f"{owner}\n")
    elif found != owner:
        raise HostError(
            f"{places.name} is here already, and is {found}'s: call this stack otherwise, or remove that one. "
            f"Where that one is this one ({owner}), with a stack file that was made anew, remove {places.owner}"
        )


def _make_user(places: HostPaths, number: int | None) -> None:
    """Make the instances' user, whose name every unit says. number: what it is to have; None: whatever is free."""
    if not has_user(places):
        words = ("--system", "--user-group", "--no-create-home", "--home-dir", str(places.home))
        called = () if number is None else ("--uid", str(number))
        run("useradd", *words, *called, "--shell", "/usr/sbin/nologin", places.name)


def _make_directories(places: HostPaths, *, shares: bool) -> None:
    """Make directories; shares: whether what the project writes is where other hosts have it, too."""
    user = pwd.getpwnam(places.name)
    nginx = pwd.getpwnam(NGINX_USER).pw_gid
    for path in (places.code.parent, places.code, places.state):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)
    for path in (places.releases, places.environments):
        directory_of(path, 0, user.pw_gid, 0o750)
    # What is made in these is nginx's to read, whoever's it is: by the directory's group.
    for path in (places.static, *(() if shares else (places.shared,))):
        directory_of(path, user.pw_uid, nginx, 0o2750)
    for path in (places.data, places.sessions, places.home):
        directory_of(path, user.pw_uid, user.pw_gid, 0o700)
    directory_of(places.maintenance.parent, 0, 0, 0o755)
    directory_of(places.own_nginx, 0, nginx, 0o750)
