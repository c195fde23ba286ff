"""Takes away what a stack has on a host."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from platforms.remote.host import address, broker, credentials, daemons, postgres, renewing, site
from platforms.remote.host.releases import retire_all
from platforms.remote.host.running import output

if TYPE_CHECKING:
    from platforms.remote.host.paths import HostPaths


def remove(places: HostPaths, *, data: bool, made_by: str = "") -> None:
    """Stop all, and remove what `up` made; with `data` also what the site has stored.

    made_by: the resource of a program that goes. Where another one has set the stack up since, it was called otherwise
    or moved, and nothing is removed.
    """
    if not places.owner.is_file():
        return
    if made_by and (not places.made_by.is_file() or places.made_by.read_text(encoding="utf-8").strip() != made_by):
        return
    address.leave(places)  # while the site answers here
    retire_all(places)
    daemons.forget(places, set())
    broker.forget(places)
    postgres.stop(places)
    site.remove(places)
    renewing.forget(places)
    for path in (places.unit, *places.templates(), places.nginx_unit, places.tmpfiles, places.made_by):
        path.unlink(missing_ok=True)
    if places.nginx_unit.parent.is_dir() and not any(places.nginx_unit.parent.iterdir()):
        places.nginx_unit.parent.rmdir()
    output("systemctl", "daemon-reload")
    shutil.rmtree(places.code, ignore_errors=True)
    if places.code.parent.is_dir() and not any(places.code.parent.iterdir()):
        places.code.parent.rmdir()
    credentials.remove(places)
    for path in (places.sockets, places.nginx_run, places.static, places.secrets, places.turns):
        shutil.rmtree(path, ignore_errors=True)
    if data:
        if places.shared_filesystem():
            from platforms.remote.host import filesystem  # noqa: PLC0415 - most stacks have none

            filesystem.delete(places)
        for path in places.logs.glob(f"{places.access_log}*"):  # those that logrotate has put aside, too
            path.unlink()
        postgres.drop(places)
        renewing.forget_certificates(places)
        shutil.rmtree(places.state)
        # What is left has that number, and nobody else may get it.
        output("userdel", places.name)
