"""Maintenance of a site on this machine: what is kept of it, and the file by which nginx knows."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from cluster.errors import ClusterError
from cluster.kept import LONGEST, HurtFile, read_kept, write_durably
from cluster.maintenance import KEPT_MAINTENANCE, Maintained, Maintenance, told_trouble
from cluster.render.maintenance import SUFFIX, digest_of, render_maintenance
from cluster_runtime import unfollowed
from platforms.local.nginx import PROGRAM as NGINX
from platforms.local.site import UpError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from platforms.local.paths import LocalPaths
    from platforms.local.site import Site


class Keeping:
    """What is kept of a stack's maintenance: the fact, and nginx's file, which is rendered from it."""

    def __init__(self, paths: LocalPaths) -> None:
        self.fact = paths.maintenance.with_name(f"{paths.maintenance.name}.json")
        self.file = paths.maintenance.with_name(f"{paths.maintenance.name}{SUFFIX}")

    def load(self) -> Maintenance | None:
        """Return what is wanted; None where there is no maintenance. HurtFile where that can't be read."""
        return read_kept(self.fact, KEPT_MAINTENANCE)

    def found(self) -> Maintenance | None:
        """Return the same, and None where it can't be read: `status` says so."""
        try:
            return self.load()
        except HurtFile:
            return None

    def put(self, wanted: Maintenance | None) -> Callable[[], None]:
        """Keep what is wanted; return what puts back the files that were there, for where nginx refuses the new one."""
        former = {path: _text(path) for path in (self.fact, self.file)}
        # The fact first, from which `up` makes nginx's file again.
        _write(self.fact, None if wanted is None else json.dumps(asdict(wanted)))
        self.write_file(wanted)

        def put_back() -> None:
            for path, text in former.items():
                _write(path, text)

        return put_back

    def write_file(self, wanted: Maintenance | None) -> None:
        """Put nginx's file in place, or remove it."""
        if not self.holds(wanted):
            _write(self.file, None if wanted is None else render_maintenance(wanted).text)

    def holds(self, wanted: Maintenance | None) -> bool:
        """Tell whether nginx's file is as it was rendered."""
        if wanted is None:
            return not os.path.lexists(self.file)
        try:
            return unfollowed.read(self.file, LONGEST) == render_maintenance(wanted).text.encode()
        except OSError:
            return False


def _text(path: Path) -> str | None:
    """Return what a file holds; None where there is none, or something else that was never kept here."""
    try:
        return unfollowed.read(path, LONGEST).decode("utf-8", "replace")
    except OSError:
        return None


def _write(path: Path, text: str | None) -> None:
    """Put a file in place; remove it for None."""
    if text is None:
        path.unlink(missing_ok=True)
    else:
        write_durably(path, text)


class Maintaining:
    """Turns a site's maintenance on and off: one reload of nginx, and nothing else is touched."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.keeping = Keeping(site.paths)

    def maintain(self, wanted: Maintenance | None) -> Maintained:
        """Let the site be in maintenance, or no longer; on failure it is as it was, and the error says why."""
        nginx, live = self.site.nginx, self.site.nginx.live_maintenance()
        running = self.site.supervisor.processes().get(NGINX)
        if live is None and running is not None and running.state == "RUNNING":
            name = self.site.paths.stack
            raise UpError(f"nginx does not tell whether it keeps visitors out; `cluster up {name}` mends that")
        try:
            former, hurt = self.keeping.load(), False
        except HurtFile:
            former, hurt = None, True
        digest = digest_of(wanted)
        if former == wanted and not hurt and self.keeping.holds(wanted) and live in (None, digest):
            return Maintained(changed=False, in_force=live is not None)
        put_back = self.keeping.put(wanted)
        if live is not None:
            try:
                nginx.check_in_place()
                self.site.say("reloading nginx")
                with nginx.locked():
                    nginx.reload(lambda: nginx.live_maintenance() == digest)
            except ClusterError:
                put_back()
                raise
        return Maintained(changed=True, in_force=live is not None)

    def put_back(self) -> None:
        """Write nginx's file again where it is not what is kept; one whose fact was hurt stays as it is."""
        try:
            self.keeping.write_file(self.keeping.load())
        except HurtFile:
            return

    def trouble(self) -> str | None:
        """Return what nginx does that is not what is kept, as after a command that was killed; `up` mends it."""
        try:
            wanted = self.keeping.load()
        except HurtFile:
            return None  # nobody knows what is wanted
        live = self.site.nginx.live_maintenance()
        if live in (None, digest_of(wanted)) and self.keeping.holds(wanted):
            return None
        return told_trouble(wanted)

    def hurt(self) -> str | None:
        """Return what to say where what is kept can't be read: nginx goes on as it does."""
        try:
            self.keeping.load()
        except HurtFile as error:
            return f"{error}; say `cluster maintenance {self.site.paths.stack} on`, or off, again"
        return None
