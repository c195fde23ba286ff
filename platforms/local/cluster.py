"""The cluster of one stack on this machine, changed as a whole: `up`, `rollback`, `down`."""

from __future__ import annotations

import datetime as dt
import posixpath
import signal
import stat
from typing import TYPE_CHECKING, Any

from cluster.config import StackFileError, parse_config
from cluster.config.models import AUTHORITY, DatabaseEngine, dump
from cluster.interpreters import find_interpreter, needs_of, request
from cluster.kept import make_way, remove_tree
from cluster.machine.ports import has_ipv6, is_free
from cluster.release import ReleaseSpec, find_project, runtime_config, specify
from cluster.render.users import UsersError
from cluster.requirements import read_requirements
from cluster.sessions import Discard, Lasting, of_release, refused_loss
from cluster.source import is_file_name
from cluster.stack.history import History
from cluster.stack.secrets import ensure_secrets, lost_secrets, read_secrets, restore_secrets, write_secret
from cluster.tls.certificates import CertificateError
from cluster.topology import build_topology
from cluster_runtime.gate import probe
from cluster_runtime.instance_link import InstanceLink
from cluster_runtime.migrations import lacking_url
from cluster_runtime.paths import is_within
from cluster_runtime.unfollowed import printable
from platforms.local.comparing import Comparison
from platforms.local.ending import Ending
from platforms.local.lasting import former_secrets, gone_of
from platforms.local.listeners import ports_held
from platforms.local.maintaining import Maintaining
from platforms.local.migrations import holds_tables
from platforms.local.nginx import PROGRAM as NGINX
from platforms.local.orphans import Kind, end_processes, orphaned_nginx, orphaned_processes, stack_processes
from platforms.local.plan import SHOWN
from platforms.local.programs import Programs
from platforms.local.release import MIGRATED, Release
from platforms.local.retention import forget_old
from platforms.local.rolling import Rolling
from platforms.local.site import Site, UpError
from platforms.local.starting import Starting
from platforms.local.state import Observed, mark_served
from platforms.local.supervisor import Condition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from cluster.config.models import ClusterConfig
    from platforms.local.paths import LocalPaths
    from platforms.local.plan import Plan


class LocalCluster(Site):
    """One stack on this machine, and what changes it."""

    def __init__(self, paths: LocalPaths, config: ClusterConfig, say: Callable[[str], None]) -> None:
        super().__init__(paths, config, say)
        self.programs = Programs(self)
        self.ending = Ending(self, self.programs)
        self.starting = Starting(self, self.programs, self.ending)
        self.rolling = Rolling(self, self.starting, self.ending)
        self.maintaining = Maintaining(self)

    def specify(self) -> ReleaseSpec:
        """Return the release that the stack file asks for, on an interpreter of this machine's.

        What it lacks is made: an interpreter, its secret_key, the site's own authority, its account by ACME.
        """

        def secrets() -> dict[str, str]:
            found = ensure_secrets(self.paths.secrets)
            self._ensure_authority()
            self.programs.renewing.ensure_account()
            return found

        return self._specified(secrets, bring=True)

    def look(self) -> ReleaseSpec | None:
        """Return the same, and make nothing; None where `up` makes the secret_key first, of which the digest is.

        NoInterpreterError where it lets uv bring a Python first.
        """
        found = self.known_secrets()
        return self._specified(lambda: found, bring=False) if found.get("secret_key") else None

    def known_secrets(self) -> dict[str, str]:
        """Return the secrets by their names, those that `up` puts back among them; none is made."""
        former, there = former_secrets(self.paths), read_secrets(self.paths.secrets)
        return {**there, **{name: former[name] for name in lost_secrets(self.paths.secrets, former)}}

    def _specified(self, secrets: Callable[[], dict[str, str]], *, bring: bool) -> ReleaseSpec:
        root = self.paths.root
        project = find_project(self.config, root)
        found = read_requirements(self.config.app, project)
        needs = needs_of(self.config.app, found, project)
        options = self.owner.subprocess_options()
        interpreter = find_interpreter(needs, self.paths.pythons, options, self.owner.name, bring=bring)
        self.builder.interpreter = interpreter
        return specify(
            *(self.config, root, secrets(), str(interpreter)), requirements=found, python_request=request(needs)
        )

    def _ensure_authority(self) -> None:
        """Make the authority of a site that signs its own certificate, and show what browsers are to trust."""
        if self.config.site.tls is None or not self.config.site.tls.self_signed:
            return
        from cluster.tls.authority import make_authority, show_authority  # noqa: PLC0415 - cryptography takes its time

        path = self.paths.secrets / AUTHORITY
        if not path.exists():
            write_secret(path, make_authority(self.paths.stack, dt.datetime.now(dt.UTC)))
            self.say(f"making the stack's own authority: browsers are to trust {self.paths.authority}")
        show_authority(self.paths.authority, path.read_text(encoding="ascii", errors="replace"))

    def said_of_sessions(self) -> list[dict[str, Any] | None]:
        """Return what the processes that hold names say of their sessions; None where one says nothing.

        While the stack is down, it is what its last release would say.
        """
        observed = self.observe()
        said = [
            _whole(running.status.get("sessions")) if running.status else None
            for running in observed.running
            if observed.holders.get(running.instance) == running.release
        ]
        last = None if any(said) else self.last_release()
        if last is None:
            return said
        return [dict(of_release(last.runtime(), last.secrets()))]

    def refused_loss(self, spec: ReleaseSpec, *, discard: Discard | None = None) -> str | None:
        """Return why the release must not serve: sessions would end, or data would not be seen any more.

        discard: what may be; left out: what the stack file says.
        """
        paths = self.paths.runtime_paths(self.topology, spec.digest)
        runtime = runtime_config(self.config, paths, spec.digest)
        sessions_may, data_may = discard or Discard.of(self.config)
        return refused_loss(
            self.said_of_sessions(),
            Lasting.of(runtime["sessions"]["path"], runtime["database"], spec.secrets),
            discard_sessions=sessions_may,
            discard_data=data_may,
        ) or (
            self.refused_hiding(runtime["shared"], spec.digest)
            or (None if data_may else self._lost_database(runtime["database"]))
        )

    def refused_hiding(self, shared: Iterable[str], digest: str) -> str | None:
        """Return why release `digest`, which shares these paths, must not serve: it would not see what is kept."""
        last = self.last_release()
        shared = list(shared)
        for path, place in last.runtime()["shared"].items() if last else ():
            where = self.paths.shared / place
            # Where all of it is seen nobody looks through it: there may be millions of files.
            if not is_within(path, shared) and any(not is_within(file, shared) for file in _files_of(where, path)):
                return (
                    f"app.shared: {path} is kept in {where}, and release {digest} does not share it: what is in there "
                    f"would not be seen any more. Say `cluster up` with {path} in app.shared, or move it away if it "
                    "may be left behind"
                )
        return None

    def _lost_database(self, database: dict[str, Any] | None) -> str | None:
        """Return what to say of an sqlite that a release has served with, and that is gone or empty now."""
        last = self.last_release()
        if last is None or not last.migrated:
            return None
        paths = self.builder.migrations.own_databases(last)
        if database is not None and database["engine"] == DatabaseEngine.SQLITE and last.database is not None:
            paths += [last.database] if str(last.database) == database["path"] else []
        for path in paths:
            if not holds_tables(path, self.owner):
                key = "sessions" if database is None else "database"
                return (
                    f"database: {printable(str(path))} is gone or empty, and release {last.digest} served with it: put "
                    f"it back (from a backup), or set `{key}.discard: true` for one `cluster up`, which begins with an "
                    "empty one"
                )
        return None

    def restore_secrets(self) -> None:
        """Put back secrets that were removed, from the release that serves or served last: a new key ends sessions."""
        restored = restore_secrets(self.paths.secrets, former_secrets(self.paths))
        if restored:
            current = History.load(self.paths).current
            self.say(f"{', '.join(restored)} of {self.paths.secrets} was gone: put back from release {current}")

    def plan(self, release: str, parts: dict[str, str]) -> Plan:
        """Compare what is wanted with what runs."""
        made = self.builder.find(release)
        history = History.load(self.paths)
        former = self.builder.find(history.current) if history.current else None
        observed = self.observe()
        if self.maintaining.trouble():
            self.nginx.reload_wanted = True
        return Comparison(
            topology=self.topology,
            release=release,
            parts=parts,
            former=history.current,
            former_parts=former.parts() if former else {},
            made=made is not None and self.builder.environments.starts(made.directory / "environment"),
            migrated=made is not None and made.migrated and not self._was_set_back(made, observed),
            observed=observed,
            watched=self.supervisor.is_current(self.programs.watch()),
            daemons=self.programs.daemons_wanted(made),
            beside=self.beside(release),
            hurt=tuple(self.builder.hurt(release)),
            orphans=0 if observed.kept else len(orphaned_processes(self.paths)),
            nginx=self.nginx,
            config=self.nginx_config(whole=True),
        ).plan()

    def _was_set_back(self, release: Release, observed: Observed) -> bool:
        """Tell whether older databases were put back since the release's migrations ran: they run again then.

        An instance of the release says so. Where none runs, its sqlite file does; of a server nothing does.
        """
        wanted = self.config.app.migrate
        if not wanted:
            return False
        url = lacking_url(wanted)
        for running in observed.running:
            if running.release == release.digest and running.listens:
                said = probe(InstanceLink(self.paths.run, running.instance).socket(release.digest), url)
                if said:
                    return bool(said.get("lacking"))
        on_server = release.database is None and not observed.running
        return on_server or self.builder.migrations.was_set_back(release)

    def recover(self) -> None:
        """Undo what a killed `up` may have left in force: clients' connections that end after each response."""
        self.ending.wake()
        self._make_directories()
        for path, directory in self._gone_of_shared():
            if directory.is_symlink():
                raise UpError(f"{directory}, which is {path} of the project, leads nowhere: is its disk mounted?")
            for above in (self.paths.shared, directory):
                make_way(above, stat.S_IFDIR)
            self.owner.hold(self.paths.shared)
            self.owner.make(directory, 0o750)
            self.say(f"{directory} was gone, which is {path} of the project: it is there again, and empty")
        # Whoever reloads nginx just now, as a renewer does that has a new certificate, still needs it.
        with self.nginx.locked():
            make_way(self.paths.closing, stat.S_IFREG)
            self.paths.closing.unlink(missing_ok=True)

    def _gone_of_shared(self) -> list[tuple[str, Path]]:
        """Return what the last release shares and is not there any more, with the directory that it was or lay in."""
        last, found = self.last_release(), []
        for path, place in last.runtime()["shared"].items() if last else ():
            where = self.paths.shared / place
            directory = where.parent if is_file_name(path) else where
            if not directory.is_dir():
                found.append((path, directory))
        return found

    def put_back(self, release: Release | None) -> None:
        """Write again what was hurt beside what runs: first of all, by which Supervisor would start it another time.

        release: the wanted one, where it is whole. The file of an instance, of whichever release, says what that
        release's configuration says: where this is hurt too, it is written when that was put back.
        """
        if release is not None:
            self.builder.migrations.put_back(release)
        kept = self.supervisor.processes()
        if not kept:
            return
        lost = self.programs.lost(kept)
        daemons = [program for _service, program in self.programs.daemons(None).values()] if lost else []
        others = [self.nginx.program(), self.programs.watch(), *daemons] if lost else []
        programs = {program.name: program for program in others}
        written = []
        for name in lost:
            program = programs.get(name) or self.programs.named(name)
            if program is not None:
                self.supervisor.write(program)
                written.append(name)
        if written:
            self.say(f"wrote the files of {', '.join(written)} again, which Supervisor reads")
        self.supervisor.put_back()
        self.nginx.put_back(self.nginx_config(), dump(self.config), kept.get(NGINX))

    def troubles(self, observed: Observed, history: History) -> list[str]:
        """Return what is wrong that no instance can say of itself, a line each; what runs may serve all the same."""
        gone = gone_of(self.paths)
        if gone:
            return [gone]
        found = []
        if not observed.kept and (observed.running or observed.supervisor is not Condition.GONE):
            pids = ", ".join(map(str, self.supervisor.pids()))
            who = f"Supervisor (process {pids})" if pids else "Supervisor"
            found.append(f"{who} {observed.supervisor}: nothing that ends is started again")
        others = [process for process in observed.stopped if process.kind is not Kind.SUPERVISOR]
        found += [f"{process} is stopped by a signal (SIGSTOP)" for process in others]
        if observed.silent:
            found.append(f"nginx (process {observed.processes[NGINX].pid}) runs, but its own socket does not answer")
        try:
            self.certificate()
            self.users()
        except (CertificateError, UsersError) as error:
            found.append(str(error))
        config = self.nginx_config()
        if observed.nginx == config.digest and not self.nginx.is_in_place(config):
            edited = [path for path, text in config.files.items() if self.nginx.current_text(path) != text]
            which = f"{', '.join(edited)} {'was' if len(edited) == 1 else 'were'} edited or removed: " if edited else ""
            words = f"{which}nginx runs what it should, and would load something else another time"
            found.append(f"{self.paths.nginx}: {words}")
        lost = self.programs.lost(observed.processes) if observed.kept else []
        if lost:
            found.append(f"{self.supervisor.programs}: Supervisor could not start {', '.join(lost)} another time")
        found += [
            f"{name} would not take its name again after a restart: nothing tells that it was given to it"
            for name, holder in observed.holders.items()
            if holder is not None and observed.given[name] is None
        ]
        if history.found:
            found.append(f"{self.paths.history}: {history.found}; what is said here is read from the releases")
        found += [self.maintaining.trouble() or ""]
        found += [f"{directory}, which is {path} of the project, is gone" for path, directory in self._gone_of_shared()]
        hurt = self.builder.hurt(history.current)
        if history.current is not None and not (self.paths.releases / history.current).is_dir():
            found.append(f"release {history.current} is not in {self.paths.releases} any more")
        if hurt:
            found.append(f"release {history.current} was hurt: {', '.join(hurt[:SHOWN])}{', …' * (len(hurt) > SHOWN)}")
        return [f"{line}; `cluster up {self.paths.stack}` mends it" for line in found if line]

    def apply(self, plan: Plan, make: Callable[[], Release], *, rolled_back: bool = False) -> None:
        """Do what the plan says. On failure what served serves on, and what was started for nothing is removed."""
        self._make_directories()
        config = self.nginx_config(whole=True)
        self.check_ports()
        self.maintaining.put_back()
        self.programs.renewing.prepare()
        directory = self.nginx.write(config, dump(self.config))
        release = make()
        self.starting.make_nodes(release, self.last_release())
        if not self.supervisor.is_running():
            self.ending.end_orphans()
            self.say("starting Supervisor")
            self.supervisor.start_daemon()
        self.put_back(release)
        self.starting.ensure_daemons(plan, release)
        self.supervisor.ensure([self.programs.watch()])
        wanted = self.config.app.migrate
        if wanted:
            if plan.migrate:
                remove_tree(release.directory / MIGRATED)
            self.builder.migrations.migrate(release, wanted if isinstance(wanted, list) else None)
        self.builder.run_commands(release, self.config.app.release_commands)
        self.rolling.roll(plan, release)
        self.rolling.serve_static(release)
        history = History.load(self.paths)
        history.served(release.digest, rolled_back=rolled_back)
        mark_served(self.paths, release.digest)
        history.save(self.paths)
        if plan.nginx:
            self.say("reloading nginx" if plan.nginx == "reload" else "starting nginx")
            if plan.nginx != "reload":
                end_processes(orphaned_nginx(self.paths), signal.SIGQUIT)
            self.nginx.put_in_place(directory, config, reload=plan.nginx == "reload")
        self.ending.stop_stale(release, settle=plan.nginx == "reload")
        self.rolling.start_alone(plan, release)
        self.programs.renewing.await_first()
        if plan.former is not None and plan.former != release.digest:
            self.builder.shared.take_written(plan.former, release)
        forget_old(self, history, release)

    def _make_directories(self) -> None:
        paths = self.paths
        made = (paths.releases, paths.environments, paths.static, paths.temp)
        closed = (paths.logs, paths.nginx, paths.supervisor, self.supervisor.programs)
        missing = [path for path in (paths.logs, paths.temp) if not path.is_dir()]
        for path in (paths.run, *made, *closed):
            aside = make_way(path, stat.S_IFDIR)
            if aside is not None:
                self.say(f"{path} was no directory: moved to {aside.name}")
        paths.make_run(self.owner, self.topology.services)
        # What nginx's workers read, and what they write into directories of their own.
        for path in made:
            self.owner.hold(path)
        # Addresses with tokens in them, the stack's environment, what Supervisor runs: nobody else's.
        for path in closed:
            self.owner.hold(path, 0o700)
        if missing and self.supervisor.is_running():
            self.nginx.reload_wanted = True  # what it keeps open there is nobody's any more
        self.owner.make(paths.data, 0o750)
        self.owner.make_below(paths.data, "sessions")
        for service in self.topology.services:
            if service.daemon is not None and service.kept:
                self.owner.make_below(paths.data, paths.kept_by(service.kind).name)

    def check_ports(self) -> None:
        """Refuse ports that another program listens on, before anything is changed."""
        nginx = {one.pid for one in stack_processes(self.paths) if one.kind in (Kind.NGINX, Kind.WORKER)}
        # Where another user's processes do not tell their sockets, what the configuration in place says is ours.
        ours = ports_held(nginx) or (self._ports_in_place() if nginx else set())
        site = self.config.site
        if site.ipv6 and not has_ipv6():
            raise UpError("site.ipv6: the kernel of this machine has no IPv6, and nginx would not start; leave it out")
        everywhere = ("0.0.0.0", *(["::"] if site.ipv6 else []))  # noqa: S104 - as nginx will listen
        wanted = [(key, address, port) for port, key in site.listeners.items() for address in everywhere]
        wanted += [("site.instance_ports", "127.0.0.1", i.port) for i in self.topology.instances if i.port is not None]
        taken = [
            f"{key}: port {port} is in use by another program; choose another, or stop that one"
            for key, address, port in wanted
            if (":" in address, port) not in ours and not is_free(address, port)
        ]
        if taken:
            raise UpError("\n".join(dict.fromkeys(taken)))

    def _ports_in_place(self) -> set[tuple[bool, int]]:
        """Return the ports of the configuration that nginx would load, each with whether it is one of IPv6.

        None where that does not tell them.
        """
        try:
            topology = build_topology(parse_config(self.nginx.current_stack() or {}))
        except StackFileError:
            return set()
        site = topology.config.site
        lone = {(False, one.port) for one in topology.instances if one.port is not None}
        return lone | {(ipv6, port) for port in site.listeners for ipv6 in {False, site.ipv6}}

    def down(self) -> None:
        """Stop everything; data, releases and logs stay."""
        self.ending.down()


def _files_of(where: Path, path: str) -> Iterator[str]:
    """Yield the files of something that is shared as `path`, by their paths from the project's directory."""
    if where.is_file():
        yield path
    for file in where.rglob("*"):
        if not file.is_dir():
            yield posixpath.join(path, file.relative_to(where))


def _whole(said: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return what a process says of its sessions where it says all that is asked for."""
    return said if said is not None and {"engine", "previous"} <= said.keys() else None
