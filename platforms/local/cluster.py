"""The cluster of one stack on this machine: `up`, `rollback`, `down`."""

from __future__ import annotations

import os
import posixpath
import shutil
import signal
import stat
import time
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.asking import restore_sessions
from cluster.config import StackFileError, parse_config
from cluster.config.models import DatabaseEngine, Replacement, SessionEngine, dump
from cluster.errors import ClusterError
from cluster.interpreters import find_interpreter, needs_of, request
from cluster.kept import HurtFile, make_way, point_at, remove_tree
from cluster.packages import base_python
from cluster.release import ReleaseSpec, find_project, runtime_config, specify
from cluster.render.nginx import NginxConfig, render_nginx
from cluster.requirements import read_requirements
from cluster.services import instance_grace
from cluster.sessions import Lasting, of_release, refused_loss
from cluster.source import TREE, is_file_name, project_place
from cluster.stack.history import History
from cluster.stack.secrets import ensure_secrets, restore_secrets
from cluster.topology import batches, build_topology
from cluster_runtime.checks import Unhealthy
from cluster_runtime.gate import probe, serving_socket
from cluster_runtime.handover import serve
from cluster_runtime.migrations import lacking_url
from cluster_runtime.names import Name
from cluster_runtime.paths import is_within
from cluster_runtime.prepare import mask
from cluster_runtime.secret_files import is_held
from cluster_runtime.service import SERVICES, WELL, end_left
from cluster_runtime.status import CRASHED, READY, SERVING
from cluster_runtime.unfollowed import printable
from platforms.local.builder import MIGRATED, Builder, Release
from platforms.local.listeners import listening_ports
from platforms.local.migrations import holds_tables
from platforms.local.nginx import PROGRAM as NGINX
from platforms.local.nginx import Nginx, is_free, search_path
from platforms.local.orphans import PATIENCE, Kind, end_processes, orphaned_nginx, orphaned_processes, stack_processes
from platforms.local.owner import find_owner
from platforms.local.plan import SHOWN, Plan, make_plan
from platforms.local.services import answers_ping, broker_program, said_of, wanted
from platforms.local.state import (
    BROKER,
    MEMCACHED,
    WATCH,
    WITHOUT_SOCKET,
    Observed,
    is_instance,
    is_service,
    mark_served,
    observe,
    program_name,
)
from platforms.local.supervisor import Condition, Process, Supervisor, accepts, not_ours
from platforms.local.supervisor_files import Program
from platforms.local.written import SERVED, retire

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping

    from cluster.config.models import ClusterConfig
    from cluster.services import Service
    from platforms.local.places import Places

#: Releases that are kept, the serving one included.
KEPT_RELEASES = 3

#: Paths that a message names one by one.
MOST_SHOWN = 5

#: Lines of an instance's log that a failed release is told with.
LOG_LINES = 20

#: Seconds beyond start_timeout that an instance may take to say that it is healthy.
START_MARGIN = 10.0

#: Seconds that a process has to write its lost status again, or to be started again by itself.
SAID_SECONDS = 3.0

#: Seconds that what was stopped by a signal has to go on.
WAKE_SECONDS = 5.0

#: Seconds that a broker has to read what it keeps.
BROKER_SECONDS = 120.0

#: Seconds that nginx's old workers have, after a reload, to see the names of instances that are about to go.
SETTLE_SECONDS = 1.0


class UpError(ClusterError):
    """`up` could not do all it said; what served still serves. The text says what to do."""


class LocalCluster:
    """One stack on this machine. `say` is told each step."""

    def __init__(self, places: Places, config: ClusterConfig, say: Callable[[str], None]) -> None:
        self.places = places
        self.config = config
        self.topology = build_topology(config)
        self.say = say
        self.owner = find_owner(places.state)
        self._claim()
        self.supervisor = Supervisor(places)
        self.nginx = Nginx(places, self.supervisor, self.owner)
        self.builder = Builder(places, self.owner, say)

    def _claim(self) -> None:
        """As root: believe nothing that another user could have put here; PlaceError where that can't be had."""
        if not self.owner.changed:
            return
        os.umask(0o022)  # what another user must not read says so itself; all else the instances read
        if self.places.state.exists():
            self.owner.hold_own(self.places.state)
        if self.places.run.is_dir() and self.places.run.lstat().st_uid != os.geteuid():
            self.places.make_run(self.owner, ())  # a former version's: what is in it was the instances' to replace
        Builder(self.places, self.owner, self.say).reclaim()

    # --- planning

    def specify(self) -> ReleaseSpec:
        """Return the release that the stack file asks for, on an interpreter of this machine's."""
        root = self.places.root
        project = find_project(self.config, root)
        found = read_requirements(self.config.app, project)
        needs = needs_of(self.config.app, found, project)
        options = self.owner.subprocess_options()
        interpreter = find_interpreter(needs, self.places.pythons, options, self.owner.name)
        self.builder.interpreter = interpreter
        secrets = ensure_secrets(self.places.secrets)
        return specify(
            *(self.config, root, secrets, str(interpreter)), requirements=found, python_request=request(needs)
        )

    def nginx_config(self) -> NginxConfig:
        """Return nginx's configuration for this machine."""
        return render_nginx(self.topology, self.places.nginx_places(self.nginx.user), self.nginx.version)

    def observe(self) -> Observed:
        """Look at what runs."""
        return observe(self.places, self.supervisor, self.nginx)

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
        last = None if any(said) else self._last_release()
        if last is None:
            return said
        return [dict(of_release(last.runtime(), last.secrets()))]

    def refused_loss(self, spec: ReleaseSpec) -> str | None:
        """Return why the release must not serve: sessions would end, or data would not be seen any more."""
        places = self.places.runtime_places(spec.digest, project_place(self.config), None, 0)
        runtime = runtime_config(self.config, places, spec.digest)
        database, sessions = self.config.database, self.config.sessions
        discard = database.discard if database else sessions.discard
        return refused_loss(
            self.said_of_sessions(),
            Lasting.of(runtime["sessions"]["path"], runtime["database"], spec.secrets),
            discard_sessions=sessions.discard,
            discard_data=discard,
        ) or (
            self.refused_hiding(runtime["shared"], spec.digest)
            or (None if discard else self._lost_database(runtime["database"]))
        )

    def refused_hiding(self, shared: Iterable[str], digest: str) -> str | None:
        """Return why release `digest`, which shares these paths, must not serve: it would not see what is kept."""
        last = self._last_release()
        shared = list(shared)
        for path, place in last.runtime()["shared"].items() if last else ():
            where = self.places.shared / place
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
        last = self._last_release()
        if last is None or not last.migrated:
            return None
        paths = self.builder.own_databases(last)
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

    def _last_release(self) -> Release | None:
        current = History.load(self.places).current
        return self.builder.find(current) if current else None

    def restore_secrets(self) -> None:
        """Put back secrets that were removed, from the release that serves or served last: a new key ends sessions."""
        current = History.load(self.places).current
        if current is None:
            return
        former = Release(digest=current, directory=self.places.releases / current).secrets()
        restored = restore_secrets(self.places.secrets, former)
        if restored:
            self.say(f"{', '.join(restored)} of {self.places.secrets} was gone: put back from release {current}")

    def plan(self, release: str, parts: dict[str, str]) -> Plan:
        """Compare what is wanted with what runs."""
        made = self.builder.find(release)
        history = History.load(self.places)
        former = self.builder.find(history.current) if history.current else None
        nodes = self._memcached_programs(made)
        broker = broker_program(self.topology, self.places, self.owner)
        observed = self.observe()
        return make_plan(
            topology=self.topology,
            release=release,
            parts=parts,
            former=history.current,
            former_parts=former.parts() if former else {},
            made=made is not None and self.builder.environments.works(made.directory / "environment"),
            migrated=made is not None and made.migrated and not self._was_set_back(made, observed),
            observed=observed,
            watched=self.supervisor.is_current(self._watch_program()),
            memcached={program.name: self.supervisor.is_current(program) for program in nodes},
            beside=self.beside(release),
            broker=None if broker is None else self.supervisor.is_current(broker),
            hurt=tuple(self.builder.hurt(release)),
            orphans=0 if observed.kept else len(orphaned_processes(self.places)),
            nginx=self.nginx,
            config=self.nginx_config(),
        )

    def runnable(self, release: str) -> Collection[str] | None:
        """Return the kinds of services that a release can run; None where it is not made yet, or made again: all."""
        try:
            runtime = Release(digest=release, directory=self.places.releases / release).runtime()
        except HurtFile:
            return None
        kinds: tuple[str, ...] = runtime["services"]
        return kinds

    def beside(self, release: str) -> dict[str, Service]:
        """Return the workers and schedules of a release, by Supervisor's name of their process."""
        return wanted(self.topology, release, self.runnable(release))

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
                said = probe(Name(self.places.run, running.instance).socket(release.digest), url)
                if said:
                    return bool(said.get("lacking"))
        on_server = release.database is None and not observed.running
        return on_server or self.builder.was_set_back(release)

    # --- changing

    def recover(self) -> None:
        """Undo what a killed `up` may have left in force: clients' connections that end after each response."""
        self._wake()
        self._make_directories()
        for path, directory in self._gone_of_shared():
            if directory.is_symlink():
                raise UpError(f"{directory}, which is {path} of the project, leads nowhere: is its disk mounted?")
            for above in (self.places.shared, directory):
                make_way(above, stat.S_IFDIR)
            self.owner.hold(self.places.shared)
            self.owner.make(directory, 0o750)
            self.say(f"{directory} was gone, which is {path} of the project: it is there again, and empty")
        make_way(self.places.closing, stat.S_IFREG)
        self.places.closing.unlink(missing_ok=True)

    def _gone_of_shared(self) -> list[tuple[str, Path]]:
        """Return what the last release shares and is not there any more, with the directory that it was or lay in."""
        last, found = self._last_release(), []
        for path, place in last.runtime()["shared"].items() if last else ():
            where = self.places.shared / place
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
            self.builder.put_back_migrations(release)
        kept = self.supervisor.processes()
        if not kept:
            return
        lost = self._lost(kept)
        others = [self.nginx.program(), self._watch_program(), *self._daemons(None)] if lost else []
        programs = {program.name: program for program in others}
        written = []
        for name in lost:
            program = programs.get(name) or self._program_of(name)
            if program is not None:
                self.supervisor.write(program)
                written.append(name)
        if written:
            self.say(f"wrote the files of {', '.join(written)} again, which Supervisor reads")
        self.supervisor.put_back()
        self.nginx.put_back(self.nginx_config(), dump(self.config), kept.get(NGINX))

    def _lost(self, processes: Mapping[str, Process]) -> list[str]:
        """Return the programs that run, and whose files Supervisor could not read another time."""
        running = [name for name, process in processes.items() if process.state in ("RUNNING", "STARTING")]
        return [name for name in running if not self.supervisor.is_readable(name)]

    def _program_of(self, name: str) -> Program | None:
        """Return the program of an instance or a service by what Supervisor calls it.

        None where its release can't tell it, or the stack file says something else of the service by now.
        """
        if is_service(name):
            digest = name.partition("@")[2].partition(".")[0]
            release = Release(digest=digest, directory=self.places.releases / digest)
            try:
                return next((one for one in self._service_programs(release) if one.name == name), None)
            except HurtFile:
                return None
        instance, _dash, digest = name.rpartition("-")
        try:
            return self._program(instance, Release(digest=digest, directory=self.places.releases / digest))
        except HurtFile:
            return None

    def _wake(self) -> None:
        """Let what a signal has stopped go on; UpError where it is another user's, or Supervisor hangs even so."""
        stopped = [process for process in stack_processes(self.places) if process.stopped]
        for process in stopped:
            try:
                os.kill(process.pid, signal.SIGCONT)
            except PermissionError as error:
                raise UpError(not_ours([process.pid])) from error
            except ProcessLookupError:
                continue
            self.say(f"{process} was stopped by a signal: it goes on")
        deadline = time.monotonic() + WAKE_SECONDS
        while stopped and time.monotonic() < deadline and any(one.stopped for one in stack_processes(self.places)):
            time.sleep(0.05)

    def troubles(self, observed: Observed, history: History) -> list[str]:
        """Return what is wrong that no instance can say of itself, a line each; what runs may serve all the same."""
        gone = self.gone()
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
        config = self.nginx_config()
        if observed.nginx == config.digest and not self.nginx.is_in_place(config):
            found.append(f"{self.places.nginx}: nginx runs what it should, and would load something else another time")
        lost = self._lost(observed.processes) if observed.kept else []
        if lost:
            found.append(f"{self.supervisor.programs}: Supervisor could not start {', '.join(lost)} another time")
        found += [
            f"{name} would not take its name again after a restart: nothing tells that it was given to it"
            for name, holder in observed.holders.items()
            if holder is not None and observed.given[name] is None
        ]
        if history.found:
            found.append(f"{self.places.history}: {history.found}; what is said here is read from the releases")
        found += [f"{directory}, which is {path} of the project, is gone" for path, directory in self._gone_of_shared()]
        hurt = self.builder.hurt(history.current)
        if history.current is not None and not (self.places.releases / history.current).is_dir():
            found.append(f"release {history.current} is not in {self.places.releases} any more")
        if hurt:
            found.append(f"release {history.current} was hurt: {', '.join(hurt[:SHOWN])}{', …' * (len(hurt) > SHOWN)}")
        return [f"{line}; `cluster up {self.places.stack}` mends it" for line in found if line]

    def gone(self) -> str:
        """Return what to say where a stack's files were removed or moved away while it runs; empty where they are."""
        if self.places.secrets.exists() or self.places.data.exists():
            return ""
        pids = ", ".join(
            str(process.pid) for process in stack_processes(self.places) if process.kind is not Kind.WORKER
        )
        if not pids:
            return ""
        return (
            f"stack {self.places.stack} runs (processes {pids}), but {self.places.state} was removed or moved away: "
            "nothing serves without it, and its database, uploads, sessions and secret_key are where that is. Put it "
            f"back, or end what runs with `cluster down {self.places.stack}`; `cluster up` begins anew then"
        )

    def apply(self, plan: Plan, make: Callable[[], Release], *, rolled_back: bool = False) -> None:
        """Do what the plan says. On failure what served serves on, and what was started for nothing is removed."""
        self._make_directories()
        config = self.nginx_config()
        self._check_ports()
        directory = self.nginx.write(config, dump(self.config))
        release = make()
        if not self.supervisor.is_running():
            self._end_orphans()
            self.say("starting Supervisor")
            self.supervisor.start_daemon()
        self.put_back(release)
        self._ensure_memcached(plan, release)
        self._ensure_broker(plan)
        self.supervisor.ensure([self._watch_program()])
        wanted = self.config.app.migrate
        if wanted:
            if plan.migrate:
                remove_tree(release.directory / MIGRATED)
            self.builder.migrate(release, wanted if isinstance(wanted, list) else None)
        self.builder.run_commands(release, self.config.app.release_commands)
        self._roll(plan, release)
        self._serve_static(release)
        history = History.load(self.places)
        history.served(release.digest, rolled_back=rolled_back)
        mark_served(self.places, release.digest)
        history.save(self.places)
        if plan.nginx:
            self.say("reloading nginx" if plan.nginx == "reload" else "starting nginx")
            if plan.nginx != "reload":
                end_processes(orphaned_nginx(self.places), signal.SIGQUIT)
            self.nginx.put_in_place(directory, config.digest, reload=plan.nginx == "reload")
        self._stop_stale(release, settle=plan.nginx == "reload")
        self._start_alone(plan, release)
        if plan.former is not None and plan.former != release.digest:
            self.builder.take_written(plan.former, release)
        self._forget_old(history, release)

    def _start_alone(self, plan: Plan, release: Release) -> None:
        """Start what had to wait until its former process had ended; UpError says what serves where one does not."""
        try:
            self._start_beside(plan, release, Replacement.ALONE)
        except UpError as error:
            back = f"; `cluster rollback {self.places.stack} --to {plan.former}` takes it back" if plan.former else ""
            raise UpError(f"{error}\nRelease {release.digest} serves already, without it{back}") from error

    def _make_directories(self) -> None:
        places = self.places
        made = (places.releases, places.environments, places.static, places.temp)
        closed = (places.logs, places.nginx, places.supervisor, self.supervisor.programs)
        missing = [path for path in (places.logs, places.temp) if not path.is_dir()]
        for path in (places.run, *made, *closed):
            aside = make_way(path, stat.S_IFDIR)
            if aside is not None:
                self.say(f"{path} was no directory: moved to {aside.name}")
        places.make_run(self.owner, self.topology.names, [service.name for service in self.topology.beside])
        # What nginx's workers read, and what they write into directories of their own.
        for path in made:
            self.owner.hold(path)
        # Addresses with tokens in them, the stack's environment, what Supervisor runs: nobody else's.
        for path in closed:
            self.owner.hold(path, 0o700)
        if missing and self.supervisor.is_running():
            self.nginx.reload_wanted = True  # what it keeps open there is nobody's any more
        self.owner.make(places.data, 0o750)
        self.owner.make_below(places.data, "sessions")
        if self.config.broker is not None:
            self.owner.make_below(places.data, places.broker_data.name)

    def _check_ports(self) -> None:
        """Refuse ports that another program listens on, before anything is changed."""
        nginx = {one.pid for one in stack_processes(self.places) if one.kind in (Kind.NGINX, Kind.WORKER)}
        # Where another user's processes do not tell their sockets, what the configuration in place says is ours.
        ours = {port for _pid, port in listening_ports(nginx)} or (self._ports_in_place() if nginx else set())
        wanted = [("site.listen", "0.0.0.0", self.config.site.listen)]  # noqa: S104 - as nginx will listen
        wanted += [("site.instance_ports", "127.0.0.1", i.port) for i in self.topology.instances if i.port is not None]
        taken = [
            f"{key}: port {port} is in use by another program; choose another, or stop that one"
            for key, address, port in wanted
            if port not in ours and not is_free(address, port)
        ]
        if taken:
            raise UpError("\n".join(taken))

    def _ports_in_place(self) -> set[int]:
        """Return the ports of the configuration that nginx would load; none where that does not tell them."""
        try:
            topology = build_topology(parse_config(self.nginx.current_stack() or {}))
        except StackFileError:
            return set()
        return {topology.config.site.listen, *(one.port for one in topology.instances if one.port is not None)}

    def _program(self, instance: str, release: Release) -> Program:
        run = ("-P", "-m", "cluster_runtime.instance", "run", "--instance", instance)
        # Nothing serves before it was looked at, the first release of all included.
        words = (*run, "--told", "--config", str(release.config), "--sockets", str(self.places.run))
        grace = instance_grace(release.runtime()["graceful_timeout"])
        return self._project_program(program_name(instance, release.digest), words, release, grace, priority=500)

    def _service_programs(self, release: Release) -> list[Program]:
        """Return the workers and schedules of a release."""
        config, sockets = str(release.config), str(self.places.run)
        return [
            self._project_program(
                name, service.words(release.digest, config, sockets), release, service.grace, priority=400
            )
            for name, service in self.beside(release.digest).items()
        ]

    def _project_program(
        self, name: str, words: tuple[str, ...], release: Release, grace: float, *, priority: int
    ) -> Program:
        """Return what runs the project's code: `words` after Python, `grace` seconds to stop."""
        command = (release.python, *words)
        # Supervisor would give it all of the user's groups: sudo's caller may be in docker's, which is as good as root.
        alone = self.owner.alone(release.project) if self.owner.changed else ()
        return Program(
            name=name,
            command=(*alone, *command),
            directory=str(release.directory if alone else release.project),
            log=str(self.places.logs / f"{name}.log"),
            priority=priority,
            user=self.owner.name if self.owner.changed and not alone else None,
            environment={"PYTHONPATH": str(release.directory / "runtime"), "PYTHONDONTWRITEBYTECODE": "1"},
            stop_seconds=grace,
        )

    def _watch_program(self) -> Program:
        """Return what lets stopped processes go on; it may signal whatever Supervisor has started."""
        return Program(
            name=WATCH,
            command=(base_python(), "-I", str(Path(__file__).with_name("watch.py"))),
            directory=str(self.places.state),
            log=str(self.places.logs / f"{WATCH}.log"),
            priority=50,
        )

    def _daemons(self, release: Release | None) -> list[Program]:
        """Return what runs beside the project and is none of its code."""
        broker = broker_program(self.topology, self.places, self.owner)
        return [*self._memcached_programs(release), *([] if broker is None else [broker])]

    def _ensure_broker(self, plan: Plan) -> None:
        """Start the broker, and wait until it answers: what begins now may have jobs for it."""
        program = broker_program(self.topology, self.places, self.owner)
        if plan.broker is None or program is None:
            return
        self.supervisor.ensure([program])
        deadline = time.monotonic() + BROKER_SECONDS
        while not answers_ping(self.places.broker_socket):
            if time.monotonic() > deadline:
                log = self.places.logs / f"{BROKER}.log"
                raise UpError(f"the broker does not answer within {BROKER_SECONDS:g} s; {log} says why")
            time.sleep(0.05)

    def _memcached_programs(self, release: Release | None) -> list[Program]:
        nodes = max(self.topology.memcached_nodes, release.memcached_nodes if release else 0)
        megabytes = max(1, int(self.config.sessions.memcached.memory) // 1024**2)
        path = find_memcached() if nodes else ""
        # memcached refuses to be root unless told; elsewhere Supervisor has made it another user.
        identity = ("-u", "root") if self.owner.uid == 0 else ()

        def program(number: int, socket: Path) -> Program:
            return Program(
                name=f"{MEMCACHED}{number}",
                command=(path, *identity, "-s", str(socket), "-a", "0700", "-m", str(megabytes)),
                directory=str(self.places.state),
                log=str(self.places.logs / f"{MEMCACHED}{number}.log"),
                priority=100,
                user=self.owner.name if self.owner.changed else None,
            )

        found = []
        for number in range(1, nodes + 1):
            former = program(number, self.places.memcached_socket(number))
            # One that a former version started is found at the same place, and keeps what it holds.
            kept = self.supervisor.is_current(former) and accepts(self.places.memcached_socket(number))
            found.append(former if kept else program(number, self.places.memcached_listens(number)))
        return found

    def _ensure_memcached(self, plan: Plan, release: Release) -> None:
        """Start the nodes; without a database one after another, each filled from the other before that goes."""
        programs = self._memcached_programs(release)
        for number, _program in enumerate(programs, start=1):
            self.places.make_memcached(self.owner, number)
        engines = (self.config.sessions.engine, self.config.sessions.previous)
        if not plan.emptied or SessionEngine.CACHE not in engines:
            self.supervisor.ensure(programs)
            return
        for program in programs:
            # Before as well as after: an `up` that was killed may have left the one before half filled.
            if program.name in plan.emptied:
                self._await_sessions(program.name)
            self.supervisor.ensure([program])
            if program.name in plan.emptied:
                self._await_sessions(program.name)

    def _await_sessions(self, node: str) -> None:
        if not restore_sessions(str(self.places.nginx_socket)):
            raise UpError(
                f"{node} is to be started with other settings, and not all nodes have the sessions that they should; "
                "they are left as they are: `cluster status` says what is wrong with them"
            )

    # --- releasing

    def _roll(self, plan: Plan, release: Release) -> None:
        """Bring the release into service, batch by batch; a batch that never gets healthy takes no name."""
        names = tuple(name for name in self.topology.names if name in plan.start or name in plan.serve)
        done: list[str] = []
        if not names:
            self._start_beside(plan, release, Replacement.BESIDE)
        for batch in batches(names, self.config.app):
            try:
                self._release_batch(batch, plan, release, done)
            except UpError as error:
                if done and plan.former:
                    back = f"`cluster rollback {self.places.stack} --to {plan.former}` takes them back"
                    raise UpError(
                        f"{error}\n{', '.join(done)} serve release {release.digest} already; {back}"
                    ) from error
                raise
            finally:
                if not done:  # whatever happened, an interrupt too: they would take jobs of a release that never served
                    self._withdraw_beside(plan.beside, release)
            if len(batch) < len(names):
                self._stop_other_releases(batch, release)

    def _release_batch(self, batch: tuple[str, ...], plan: Plan, release: Release, done: list[str]) -> None:
        """Let a batch get healthy, and take its names; `done` gets those that are taken."""
        started: list[str] = []
        first = not done
        try:
            for group in (batch[:1], batch[1:]):
                self._bring_up(group, plan, release, started)
                if first and group == batch[:1]:
                    self._judge(batch[0], release)
            if first:
                self._start_beside(plan, release, Replacement.BESIDE)
            self._serve_static(release)
            for name in batch:
                self._take_name(name, release)
                done.append(name)
        except UpError:
            self._withdraw(started, release)
            raise

    def _bring_up(self, names: tuple[str, ...], plan: Plan, release: Release, started: list[str]) -> None:
        """Let these be healthy, without any name yet; `started` gets those that were not there before."""
        new = [name for name in names if name in plan.start]
        started += new
        self._start(new, release)
        self._restart_silent([name for name in names if name not in new], release)
        self._await_ready(names, release)

    def _start_beside(self, plan: Plan, release: Release, replacement: Replacement) -> None:
        """Start those workers and schedules that are replaced so, and wait until they do what they are for.

        Where one does not, all of them are removed: they would take jobs.
        """
        services = self.beside(release.digest)
        names = [name for name in plan.beside if services[name].replacement is replacement]
        if not names:
            return
        self.say(f"starting {', '.join(services[name].name for name in names)} of release {release.digest}")
        self.supervisor.ensure([program for program in self._service_programs(release) if program.name in names])
        try:
            for name in names:
                self._await_service(name, services[name], release)
        except BaseException:
            self._withdraw_beside(names, release)
            raise

    def _withdraw_beside(self, names: Iterable[str], release: Release) -> None:
        """Remove those of the workers and schedules that were started for nothing, by Supervisor's names."""
        meant = set(names)
        there = sorted(meant & self.supervisor.processes().keys()) if meant else []
        if there:
            self.say(f"removing {', '.join(name.partition('@')[0] for name in there)} of release {release.digest}")
            self.supervisor.remove(there)

    def _await_service(self, program: str, service: Service, release: Release) -> None:
        deadline = time.monotonic() + service.start_seconds + START_MARGIN
        first = self._process(program)
        while True:
            said = said_of(self.places, self._process(program))
            if said.state in WELL:
                self.say(f"{service.name} is {said.state}")
                return
            gone = said.process.pid != first.pid or said.process.state not in ("RUNNING", "STARTING")
            if gone or said.state == CRASHED or time.monotonic() > deadline:
                late = f"not {WELL[0]} within {service.start_seconds:g} s"
                message = str(said.status.get("message", "")) or ("its process has ended" if gone else late)
                raise UpError(self._failed(f"{service.name} of release {release.digest}", program, release, message))
            time.sleep(0.05)

    def _restart_silent(self, names: Iterable[str], release: Release) -> None:
        """Start processes again that run, and say nothing or can't be reached: what they lacked was put back."""

        def silent_now() -> list[str]:
            found = {one.instance: one for name in names for one in observed.of(name) if one.release == release.digest}
            return [name for name, one in found.items() if one.status is None or one.state == WITHOUT_SOCKET]

        names = list(names)
        deadline = time.monotonic() + SAID_SECONDS
        observed = self.observe()
        while (silent := silent_now()) and time.monotonic() < deadline:
            time.sleep(0.2)
            observed = self.observe()
        if silent:
            self.supervisor.stop([program_name(name, release.digest) for name in silent])
            self._start(silent, release)

    def _judge(self, name: str, release: Release) -> None:
        """Let no release serve that does less for a visitor than the one that does.

        Where nothing serves, one that has served before may do so again, whatever its pages answer by now.
        """
        run = self.places.run
        holders = [(other, Name(run, other).holder()) for other in self.topology.names]
        if any(holder == release.digest and Name(run, other).alive(holder) for other, holder in holders):
            return
        former = serving_socket(run, release.digest)
        if former is None and (release.directory / SERVED).exists():
            return
        self.say("looking at its pages as a visitor")
        problems = self.builder.judge(release, Name(run, name).socket(release.digest), former)
        if problems:
            raise UpError(f"release {release.digest} does not do for visitors what it should:\n{problems}")

    def _start(self, names: Iterable[str], release: Release) -> None:
        names = list(names)
        if not names:
            return
        self.say(f"starting {', '.join(names)} of release {release.digest}")
        self.supervisor.ensure([self._program(name, release) for name in names])

    def _await_ready(self, names: Iterable[str], release: Release) -> None:
        for name in names:
            self._await_one(name, release)

    def _await_one(self, name: str, release: Release) -> None:
        program = program_name(name, release.digest)
        deadline = time.monotonic() + self.config.app.health.start_timeout.seconds + START_MARGIN
        first = self._process(program).pid
        said: dict[str, Any] = {}
        while True:
            status = Name(self.places.run, name).status(release.digest)
            process = self._process(program)
            own = status or {}
            if own.get("pid") == process.pid and own.get("state") in (READY, SERVING):
                self.say(f"{name} is healthy")
                return
            if own.get("pid") == first:
                said = own
            gone = process.state not in ("RUNNING", "STARTING") or process.pid != first
            # What the project does wrong by itself gets no better until start_timeout.
            if gone or said.get("sure") or time.monotonic() > deadline:
                raise UpError(self._unhealthy(name, release, said.get("message", ""), said.get("failure", "")))
            time.sleep(0.05)

    def _process(self, program: str) -> Process:
        """Return a program's process; UpError where Supervisor does not know it (any more)."""
        found = self.supervisor.processes().get(program)
        if found is None:
            raise UpError(
                f"Supervisor {self.supervisor.condition()} or has forgotten {program}; run `cluster up` again"
            )
        return found

    def _unhealthy(self, name: str, release: Release, message: str, failure: str) -> str:
        """Return why an instance did not get healthy: by what the project raised where that is known, else by its log.

        What a check says again and again would leave no room for why.
        """
        told = f"{name} of release {release.digest} did not get healthy"
        return self._failed(told, program_name(name, release.digest), release, message, failure)

    def _failed(self, told: str, program: str, release: Release, message: str, failure: str = "") -> str:
        log = self.places.logs / f"{program}.log"
        told += f": {message}" if message else ""
        if failure:
            text, head = failure, f"What the project raised (more in {log.relative_to(self.places.root)}):"
        else:
            text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            head = f"The last lines of {log.relative_to(self.places.root)}:"
        lines = [line for line, _same in groupby(mask(text, release.secrets()).splitlines())]
        last = "\n".join(f"    {line}" for line in lines[-LOG_LINES:])
        return f"{mask(told, release.secrets())}\n{head}\n{last}"

    def _withdraw(self, names: list[str], release: Release) -> None:
        """Remove what was started, but for processes that hold their name: those serve."""
        gone = [name for name in names if Name(self.places.run, name).holder() != release.digest]
        if gone:
            self.say(f"removing {', '.join(gone)} of release {release.digest}")
            self._remove([(name, release.digest) for name in gone])

    def _serve_static(self, release: Release) -> None:
        """Let nginx find the release's static files first, and the former release's after them."""
        current, previous = self.places.static / "current", self.places.static / "previous"
        target = f"../releases/{release.digest}/public"
        former = str(current.readlink()) if current.is_symlink() else None
        if former == target:
            return
        for link, where in ((previous, former), (current, target)):
            if where is not None:
                point_at(link, where)

    def _take_name(self, name: str, release: Release) -> None:
        try:
            serve(self.places.run, name, release.digest)
        except Unhealthy as error:
            raise UpError(f"{error}; run `cluster up` again") from error
        self.say(f"{name} serves release {release.digest}")

    # --- stopping

    def _stop_other_releases(self, names: Iterable[str], release: Release) -> None:
        observed = self.observe()
        old = [(r.instance, r.release) for name in names for r in observed.of(name) if r.release != release.digest]
        if old:
            self.say(f"draining {', '.join(program_name(*pair) for pair in old)}")
            self._remove(old)

    def _stop_stale(self, release: Release, *, settle: bool) -> None:
        """Stop instances, workers, schedules and memcached nodes that are no longer wanted."""
        observed = self.observe()
        beside = self.beside(release.digest)
        former = [name for name in observed.processes if is_service(name) and name not in beside]
        old = [
            (running.instance, running.release)
            for running in observed.running
            if running.instance not in self.topology.names or running.release != release.digest
        ]
        if old or former:
            if old and settle:
                time.sleep(SETTLE_SECONDS)
            self.say(f"draining {', '.join([*(program_name(*pair) for pair in old), *former])}")
            self._remove(old, former)
        self._forget_services()
        if self.config.broker is None and BROKER in observed.processes:
            self.say(f"stopping the broker; what it keeps stays in {self.places.broker_data}")
            self.supervisor.remove([BROKER])
        nodes = {program.name for program in self._memcached_programs(release)}
        unwanted = [
            name
            for name in observed.processes
            if name.startswith(MEMCACHED) and name not in nodes and not is_instance(name) and not is_service(name)
        ]
        self.supervisor.remove(unwanted)
        for name in unwanted:
            self.places.forget_memcached(name)

    def _remove(self, pairs: list[tuple[str, str]], services: Iterable[str] = ()) -> None:
        self.supervisor.remove([*(program_name(*pair) for pair in pairs), *services])
        for instance, digest in pairs:
            name = Name(self.places.run, instance)
            files = (name.socket, name.status_file, name.beat_socket, name.stage_file)
            for path in (file(digest) for file in files):
                path.unlink(missing_ok=True)
            if instance not in self.topology.names and name.holder() in (None, digest):
                self._forget_name(name)

    def _forget_name(self, name: Name) -> None:
        """Remove the directory of an instance that has ended, in which what it started may write for a moment more."""
        try:
            remove_tree(name.directory)
        except OSError as error:  # it is its user's directory, who may do there whatever they like
            self.say(f"{name.directory} can't be removed: {error.strerror}")

    def _forget_services(self) -> None:
        """Remove what workers and schedules have left that are no more."""
        named = {service.name for service in self.topology.beside}
        directory = self.places.run / SERVICES
        for path in directory.iterdir() if directory.is_dir() else ():
            if path.name not in named:
                self._forget_name(Name(directory, path.name))

    def _end_orphaned_services(self) -> None:
        """Let workers and schedules of a killed Supervisor end what they are at; the instances serve meanwhile."""
        services = [process for process in stack_processes(self.places) if process.kind is Kind.SERVICE]
        if services:
            self.say(f"ending {len(services)} workers and schedules that a killed Supervisor left")
            patience = max([PATIENCE, *(service.grace for service in self.topology.beside)])
            try:
                end_processes([process.pid for process in services], patience=patience)
            except PermissionError as error:
                raise UpError(not_ours([process.pid for process in services])) from error
        end_left(str(self.places.run / SERVICES))

    def _end_orphans(self) -> None:
        """End a Supervisor that can't be reached, and what one that was killed left: a new one can't adopt them."""
        condition, pids = self.supervisor.condition(), self.supervisor.pids()
        if pids:
            self.say(f"ending Supervisor (process {', '.join(map(str, pids))}), which {condition}")
            self.supervisor.shutdown()
        self._end_orphaned_services()
        orphans = orphaned_processes(self.places)
        brokers = [process.pid for process in stack_processes(self.places) if process.kind is Kind.BROKER]
        if orphans:
            self.say(f"ending {len(orphans)} processes that a killed Supervisor left")
            try:
                end_processes(pid for pid in orphans if pid not in brokers)
                end_processes(brokers)  # the last: what ends before may have jobs for it
            except PermissionError as error:
                raise UpError(not_ours(orphans)) from error
        workers = orphaned_nginx(self.places)
        if workers:
            end_processes(workers, signal.SIGQUIT)

    def _forget_old(self, history: History, release: Release) -> None:
        """Remove releases beyond the kept ones, environments that none of them uses, and nginx's old configurations."""
        keep = {*history.releases[-KEPT_RELEASES:], release.digest, history.current, history.former()}
        history.releases = [digest for digest in history.releases if digest in keep]
        history.save(self.places)
        linked = {link.readlink().parent.name for link in self.places.static.iterdir() if link.is_symlink()}
        for directory in self.places.releases.iterdir():
            if directory.name in keep | linked or is_held(directory / "secrets"):
                continue
            try:
                kept = retire(directory, TREE, self.places.kept)
            except (OSError, RecursionError) as error:  # its project may have made anything there
                self.say(f"release {directory.name} can't be removed, and stays: {error}")
                continue
            if kept:
                shown = ", ".join(kept[:MOST_SHOWN]) + (
                    f" and {len(kept) - MOST_SHOWN} more" if kept[MOST_SHOWN:] else ""
                )
                self.say(
                    f"release {directory.name} goes, and its project had written {shown}: moved to "
                    f"{self.places.kept.relative_to(self.places.root)}; name such paths in app.shared"
                )
        used = {(directory / "environment").resolve() for directory in self.places.releases.iterdir()}
        for directory in self.places.environments.iterdir():
            if directory.resolve() not in used:
                remove_tree(directory)
        self._forget_logs(keep)
        self.nginx.forget_others()

    def _forget_logs(self, keep: Container[str | None]) -> None:
        """Remove the logs of releases that are not kept, and of instances that are no more."""
        for log in self.places.logs.glob("*.log*"):
            program = log.name.partition(".log")[0]
            if is_service(program):
                gone = program.partition("@")[2].partition(".")[0] not in keep
            elif is_instance(program):
                instance, _, digest = program.rpartition("-")
                gone = digest not in keep or instance not in self.topology.names
            else:
                continue
            if gone:
                log.unlink()

    def down(self) -> None:
        """Stop everything; data, releases and logs stay."""
        self._wake()
        if not self.supervisor.is_running():
            self._end_orphans()
            return
        names = list(self.supervisor.processes())
        nginx, nodes = [name for name in names if name == "nginx"], [n for n in names if n.startswith(MEMCACHED)]
        instances = [name for name in names if is_instance(name)]
        services = [name for name in names if is_service(name)]
        # Forgotten as well: at its own end Supervisor takes a second for each program that it knows, ended or not.
        self.say("stopping nginx")
        self.supervisor.remove(nginx, keep_files=True)
        self.say(f"stopping the instances{', workers and schedules' * bool(services)}")
        self.supervisor.remove([*instances, *services], keep_files=True)
        end_left(str(self.places.run / SERVICES))
        self.supervisor.remove([name for name in names if name == BROKER], keep_files=True)
        # What memcached holds ends with it; asked to end it takes seven seconds for that.
        self.supervisor.remove(nodes, keep_files=True, kill=True)
        self.supervisor.shutdown()
        self._end_orphans()


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


def find_memcached() -> str:
    """Return memcached's path; UpError where it is missing."""
    path = shutil.which("memcached", path=search_path())
    if path is None:
        raise UpError("memcached is not installed: apt-get install --no-install-recommends memcached")
    return path
