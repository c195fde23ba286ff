"""A stack on this machine: where its things are, who keeps them running, and what is there."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from typing import TYPE_CHECKING

from cluster.config.models import AUTHORITY, USERS
from cluster.errors import ClusterError
from cluster.kept import HurtFile
from cluster.machine.owner import find_owner
from cluster.render.nginx import NginxConfig, render_nginx
from cluster.render.users import UsersError, users_file
from cluster.stack.history import History
from cluster.tls.certificates import Certificate, CertificateError, certificate_of, named
from cluster.topology import build_topology
from platforms.local.builder import Builder
from platforms.local.nginx import Nginx
from platforms.local.release import Release
from platforms.local.services import wanted
from platforms.local.state import Observed, observe
from platforms.local.supervisor import Process, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from cluster.config.models import ClusterConfig
    from cluster.services import Service
    from platforms.local.paths import LocalPaths


class UpError(ClusterError):
    """`up` could not do all it said; what served still serves. The text says what to do."""


class Site:
    """One stack on this machine. `say` is told each step."""

    def __init__(self, paths: LocalPaths, config: ClusterConfig, say: Callable[[str], None]) -> None:
        self.paths = paths
        self.config = config
        self.topology = build_topology(config)
        self.say = say
        self.owner = find_owner(paths.state)
        self._claim()
        self.supervisor = Supervisor(paths)
        self.nginx = Nginx(paths, self.supervisor, self.owner)
        self.builder = Builder(paths, self.owner, say)

    def _claim(self) -> None:
        """As root: believe nothing that another user could have put here; PathError where that can't be had."""
        if not self.owner.changed:
            return
        os.umask(0o022)  # what another user must not read says so itself; all else the instances read
        if self.paths.state.exists():
            self.owner.hold_own(self.paths.state)
        if self.paths.run.is_dir() and self.paths.run.lstat().st_uid != os.geteuid():
            self.paths.make_run(self.owner, ())  # a former version's: what is in it was the instances' to replace
        Builder(self.paths, self.owner, self.say).ownership.reclaim()

    def nginx_config(self, *, whole: bool = False) -> NginxConfig:
        """Return nginx's configuration for this machine.

        whole: with the certificate and its key, and the users; CertificateError or UsersError where they can't be had.
        Else without them there.
        """
        paths = self.paths.nginx_paths(self.topology, self.nginx.user)
        certificate = self.certificate() if whole else self.known_certificate()
        users = self.users() if whole else self.known_users()
        return render_nginx(self.topology, paths, self.nginx.version, certificate, users)

    def known_users(self) -> str:
        """Return what is known of the site's users, whatever is wrong with them."""
        with contextlib.suppress(UsersError):
            return self.users()
        return ""

    def users(self) -> str:
        """Return what nginx reads of the site's users. UsersError where they can't be had."""
        given, kept = self.config.auth_basic_users, self.paths.secrets / USERS
        try:
            secret = given.get_secret_value() if given else kept.read_text(encoding="utf-8")
        except FileNotFoundError:
            secret = ""
        except (OSError, UnicodeDecodeError):
            raise UsersError(f"{USERS}: {kept} can't be read as text") from None
        return users_file(self.config, secret)

    def known_certificate(self) -> Certificate | None:
        """Return what is known of the site's certificate, whatever is wrong with it."""
        with contextlib.suppress(CertificateError):
            return self.certificate()
        with contextlib.suppress(CertificateError):
            return named(self.config, self.paths.root, dt.datetime.now(dt.UTC))
        return Certificate(label="none that can be read")

    def certificate(self) -> Certificate | None:
        """Return the site's certificate, without its key where the authority that signs it is not made yet."""
        now, authority = dt.datetime.now(dt.UTC), self.paths.secrets / AUTHORITY
        if self.config.site.tls is None or (self.config.site.tls.self_signed and not authority.exists()):
            return named(self.config, self.paths.root, now)
        known = authority.read_text(encoding="ascii", errors="replace") if self.config.site.tls.self_signed else ""
        return certificate_of(self.config, self.paths.root, known, now)

    def observe(self) -> Observed:
        """Look at what runs."""
        return observe(self.paths, self.supervisor, self.nginx)

    def last_release(self) -> Release | None:
        """Return the release that serves, or served last; None where it is not here."""
        current = History.load(self.paths).current
        return self.builder.find(current) if current else None

    def runnable(self, release: str) -> Collection[str] | None:
        """Return the kinds of services that a release can run; None where it is not made yet, or made again: all."""
        try:
            runtime = Release(digest=release, directory=self.paths.releases / release).runtime()
        except HurtFile:
            return None
        kinds: tuple[str, ...] = runtime["services"]
        return kinds

    def beside(self, release: str) -> dict[str, Service]:
        """Return the workers and schedules of a release, by Supervisor's name of their process."""
        return wanted(self.topology, release, self.runnable(release))

    def process(self, program: str) -> Process:
        """Return a program's process; UpError where Supervisor does not know it (any more)."""
        found = self.supervisor.process(program)
        if found is None:
            raise UpError(
                f"Supervisor {self.supervisor.condition()} or has forgotten {program}; run `cluster up` again"
            )
        return found
