"""Makes releases on this machine: the environment of packages, the copy of the code, static files, migrations."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import threading
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter

from cluster.kept import (
    COMPLETE,
    HurtFile,
    hurt,
    make_way,
    point_at,
    read_kept,
    remove_tree,
    sync_tree,
    vouch,
    write_durably,
)
from cluster.machine.confined import MOST_FACTS, clean_environment, confine
from cluster.machine.environments import PACKAGES, SOURCES, Environments
from cluster.release import (
    RUNTIME,
    ReleaseError,
    ReleaseSpec,
    check_copied,
    package_files,
    runtime_config,
    runtime_requirements,
    sources,
)
from cluster.render.mime import compressed_endings
from cluster.source import TREE, Source, check_shared, is_file_name, shared_place, write_tree
from cluster.stack.history import History
from cluster.stack.secrets import write_secret
from cluster_runtime import unfollowed
from cluster_runtime.config import ConfigError, RuntimeConfig
from cluster_runtime.describe import COLLECT, NOT_COLLECTED, REFUSED
from cluster_runtime.gather import gather
from cluster_runtime.paths import LEFT_OUT
from cluster_runtime.prepare import mask
from cluster_runtime.progress import read_telling
from cluster_runtime.unfollowed import printable
from platforms.local.mending import put_back, write_below
from platforms.local.migrations import APPLIED, applied_in, holds_tables, were_lost
from platforms.local.written import FILES, SERVED, known_files, note_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cluster.interpreters import Interpreter
    from cluster.machine.owner import Owner
    from cluster.source import Entry
    from cluster.topology import Topology
    from platforms.local.paths import LocalPaths

#: Lines of a failed program's output that a message repeats.
LAST_LINES = 15

#: Its migrations have run.
MIGRATED = "migrated"
COMMANDED = "commanded"

#: The names of the project's own sqlite files among the data, as they were when its migrations had run.
DATABASES = "databases.json"

#: Files and directories of a release; what the project must not change of its own release is not its user's.
CONFIG, PARTS, FACTS, SECRETS = "config.json", "parts.json", "project.json", "secrets"
KEPT_FILES = (CONFIG, PARTS, FACTS, COMPLETE, MIGRATED, COMMANDED, SERVED, DATABASES)
OURS = (*KEPT_FILES, SECRETS, FILES, LEFT_OUT, "runtime", "environment")

#: What is kept of what a program of the project prints, bytes; and how long its end is waited for where something that
#: it started has its output still open, seconds.
MOST_PRINTED, READING_SECONDS = 256 * 1024, 5.0

#: What of a release its mark vouches for. (Its static files too: nginx would serve empty ones.)
VOUCHED = (TREE, PACKAGES, SOURCES, "runtime", "public", SECRETS, CONFIG, PARTS, FACTS, FILES, LEFT_OUT)

PARTS_KIND: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])
FACTS_KIND: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release that is on this machine."""

    digest: str
    directory: Path

    @property
    def config(self) -> Path:
        """The file that tells the instances what they are."""
        return self.directory / "config.json"

    @property
    def project(self) -> Path:
        """The project's directory in it."""
        return Path(self.runtime()["project"])

    @property
    def python(self) -> str:
        """The interpreter of its environment."""
        return str(self.directory / "environment" / "bin" / "python")

    @property
    def migrated(self) -> bool:
        """Whether `migrate` has run in it."""
        return (self.directory / MIGRATED).is_file()

    @property
    def database(self) -> Path | None:
        """The file of an sqlite that the stack file puts beside the releases; None for any other database."""
        found = self.runtime()["database"] or {}
        return Path(found["path"]) if found.get("path") else None

    @property
    def memcached_nodes(self) -> int:
        """How many memcached nodes it keeps sessions in."""
        return len(self.runtime()["sessions"]["memcached"])

    def runtime(self) -> dict[str, Any]:
        """Return the contents of its configuration file; HurtFile where that is not whole."""
        try:
            found = RuntimeConfig.load(self.config)
        except ConfigError as error:
            raise HurtFile(self.config, "is not whole") from error
        if self.directory not in Path(found.project).parents:
            raise HurtFile(self.config, "is of another directory: this one was moved")
        return asdict(found)

    def parts(self) -> dict[str, str]:
        """Return the digests of the release's parts; HurtFile where they are not whole."""
        return self._kept(PARTS, PARTS_KIND)

    def facts(self) -> dict[str, Any]:
        """Return what `cluster_runtime.describe` said of the project; HurtFile where it is not whole."""
        return self._kept(FACTS, FACTS_KIND)

    def _kept(self, name: str, kind: TypeAdapter[T]) -> T:
        found = read_kept(self.directory / name, kind)
        if found is None:
            raise HurtFile(self.directory / name, "is gone")
        return found

    def hurt(self) -> list[str] | None:
        """Return what of it is not as it was made, by its path in the release; None where it was never whole."""
        found = hurt(self.directory, COMPLETE)
        if found is None:
            return None
        for read in (self.runtime, self.parts, self.facts):
            try:
                read()
            except HurtFile as error:
                found.append(error.path.name)
        if not os.access(self.python, os.X_OK) or hurt((self.directory / "environment").resolve(), COMPLETE) != []:
            found.append("environment")
        return list(dict.fromkeys(found))

    def secrets(self) -> dict[str, str]:
        """Return the values of the release's secrets; empty where they are gone, and without those that are hurt."""
        directory, found = self.directory / "secrets", {}
        whole = directory.is_dir() and not directory.is_symlink()
        for path in directory.iterdir() if whole else ():
            with contextlib.suppress(OSError, UnicodeDecodeError):
                found[path.name] = unfollowed.read(path).decode()
        return {name: value for name, value in found.items() if value}

    def environment(self) -> dict[str, str]:
        """Return the environment of a program that runs in the release."""
        return {
            **clean_environment(),
            "PYTHONPATH": str(self.directory / "runtime"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CLUSTER_CONFIG": str(self.config),
            "CLUSTER_RELEASE": self.digest,
        }


class Builder:
    """Makes releases of one stack. `say` is told what it is doing."""

    def __init__(self, paths: LocalPaths, owner: Owner, say: Callable[[str], None]) -> None:
        self.paths = paths
        self.owner = owner
        self.say = say
        self._whole: dict[str, Release] = {}  # looked at once a command: each has thousands of files
        self.environments = Environments(directory=paths.environments, pythons=paths.pythons, owner=owner, say=say)
        self.interpreter: Interpreter | None = None

    def find(self, digest: str) -> Release | None:
        """Return the release where it is whole on this machine."""
        if digest not in self._whole:
            release = Release(digest=digest, directory=self.paths.releases / digest)
            if release.hurt() != []:
                return None
            self._whole[digest] = release
        return self._whole[digest]

    def hurt(self, digest: str | None) -> list[str]:
        """Return what is hurt of a release that was whole once."""
        if digest is None or digest in self._whole:
            return []
        release = Release(digest=digest, directory=self.paths.releases / digest)
        found = release.hurt()
        if found is None:
            return [COMPLETE] if (release.directory / SERVED).exists() else []
        return found

    def make(self, spec: ReleaseSpec, topology: Topology) -> Release:
        """Return the release of `spec`, made where it is not there yet; ReleaseError says what the project lacks."""
        environment = self._environment(spec, topology)
        found = self.find(spec.digest)
        if found is not None:  # perhaps its environment alone had to be made anew
            return found
        self.say(f"copying the code of release {spec.digest}")
        directory = self.paths.releases / spec.digest
        # One that has served may be serving: what is hurt of it is put back, and nothing else is touched.
        hurt = self.hurt(spec.digest)
        if not hurt:
            remove_tree(directory)
        for path in (self.paths.releases, directory):
            make_way(path, stat.S_IFDIR)
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        release = Release(digest=spec.digest, directory=directory)
        paths = self.paths.runtime_paths(topology, spec.digest)
        config = runtime_config(topology.config, paths, spec.digest)
        write_durably(release.config, json.dumps(config, indent=1), mode=0o644)
        self._write_code(spec, release, hurt)
        write_durably(directory / LEFT_OUT, json.dumps(spec.source.listing.left_out), mode=0o644)
        point_at(directory / "environment", os.path.relpath(environment, directory))
        self._write_secrets(spec, directory)
        write_durably(directory / PARTS, json.dumps(dict(spec.parts)), mode=0o644)
        for name in ("public", PACKAGES, SOURCES):
            make_way(directory / name, stat.S_IFDIR)
            (directory / name).mkdir(exist_ok=True)
        self._forget_static(directory, hurt)
        self._give(directory)
        self._make_shared(spec.source, release)
        if not hurt or any(path.startswith((PACKAGES, SOURCES)) for path in hurt):
            self.environments.install_local(spec, directory, release.project, environment)
        self._compile(directory)
        (directory / COMMANDED).unlink(missing_ok=True)  # what they wrote may be gone
        self._import(release, spec.requirements.main, collect=topology.config.app.collectstatic)
        if not hurt:
            note_files(directory, TREE)
        elif known_files(directory) is None:
            write_durably(directory / FILES, "{}", mode=0o644)  # whatever is there may be the project's: it is kept
        vouch(directory, COMPLETE, *VOUCHED)
        return release

    def _write_code(self, spec: ReleaseSpec, release: Release, hurt: list[str]) -> None:
        """Copy the code, that of local packages and the runtime into a release, or put back what is hurt of them."""
        directory = release.directory
        trees = {
            release.project: spec.source.tree(str(self.paths.shared)),
            directory / "runtime" / RUNTIME.name: Source(project=RUNTIME, root=RUNTIME).tree(""),
            **{directory / SOURCES / place: package_files(source, spec) for place, source in sources(spec).items()},
        }
        for top, entries in trees.items():
            if hurt:
                self._mend_tree(entries, top, directory)
            else:
                write_tree(entries, top, copy_file)
        check_copied(spec)

    def _compile(self, directory: Path) -> None:
        """Compile a release's code once, for the dozen processes that import it and may write nothing beside it.

        What can't be compiled is not for this Python, or there is no room for it: each process compiles it then.
        """
        command = [self._interpreter().path, "-I", "-S", "-m", "compileall", "-q"]
        subprocess.run([*command, str(directory / "runtime")], cwd="/", check=False, capture_output=True)
        theirs = [str(directory / name) for name in (TREE, PACKAGES, SOURCES)]
        options = self.owner.subprocess_options()
        subprocess.run([*command, *theirs], cwd="/", check=False, capture_output=True, **options)

    def _make_shared(self, source: Source, release: Release) -> None:
        """Make what the project writes, where it is not there yet, of what the project holds there."""
        self.owner.hold(self.paths.shared)
        self.owner.make_below(self.paths.data, "databases", 0o750)
        for path in source.shared:
            place, held = self.paths.shared / shared_place(path), source.project / path
            directory = place.parent if is_file_name(path) else place
            check_shared(path, held)
            if os.path.lexists(place):
                continue
            written = self._written_by_serving(path)
            if written is None and not held.exists():
                self.owner.make(directory, 0o750)
                continue
            self.say(f"copying {path}: from now on it is kept in {place.relative_to(self.paths.root)}")
            new = self.paths.shared / f".{directory.name}.new"
            shutil.rmtree(new, ignore_errors=True)
            copy = new / place.relative_to(directory)
            if written is not None:
                self.owner.make(new, 0o750)
                self._gather(written, copy, release)
            else:
                new.mkdir()
                gather(held, copy)
            self.owner.own(new)
            shutil.rmtree(directory, ignore_errors=True)  # empty: what it would hold is not there
            new.rename(directory)

    def take_written(self, former: str, release: Release) -> None:
        """Take what a former release's project wrote since the copy was made, when nothing of that release runs.

        It is where the former release did not share a path, or its project has put a file in the place of the link.
        """
        for path, place in release.runtime()["shared"].items():
            written = self._written_by(former, path)
            if written is not None:
                for left in self._gather(written, self.paths.shared / place, release):
                    self.say(f"{left}: a database that has another one in its place now, and is left where it is")

    def _written_by_serving(self, path: str) -> Path | None:
        """Return where the release that serves has a path that is to be shared from now on; None where it has not."""
        current = History.load(self.paths).current
        return None if current is None else self._written_by(current, path)

    def _written_by(self, digest: str, path: str) -> Path | None:
        """Return where a release has a path that is none of what it shares; None where it has not."""
        try:
            found = Release(digest=digest, directory=self.paths.releases / digest).project / path
        except (HurtFile, OSError):  # it is hurt: what it holds is not deleted with it, but kept aside
            return None
        return found if found.exists() and not found.is_symlink() else None

    def _gather(self, written: Path, target: Path, release: Release) -> list[str]:
        """Copy what a release's project wrote, as its user: it may lead anywhere at any moment."""
        program = release.directory / "runtime" / RUNTIME.name / f"{gather.__name__}.py"
        done = subprocess.run(
            [release.python, "-I", "-S", str(program), str(written), str(target)],
            cwd="/",
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            **self.owner.subprocess_options(),
        )
        if done.returncode != 0:
            raise ReleaseError(f"app.shared: {written} can't be copied: {_last(done.stderr)}")
        return [printable(line) for line in done.stdout.splitlines() if line]

    def _mend_tree(self, entries: Iterable[Entry], top: Path, directory: Path) -> None:
        """Put back what is hurt of a tree whose top is in `directory`; databases are data, and left as they are."""
        for entry in entries:
            if entry.fixed or entry.source is None:
                inside = PurePath(os.path.normpath(top.relative_to(directory) / entry.target))
                put_back(entry, inside, directory, self.owner)

    def _forget_static(self, directory: Path, hurt: list[str]) -> None:
        """Remove static files that are hurt, as their owner: collectstatic leaves alone what is newer than it has."""
        names = [name for name in hurt if name.startswith("public/")]
        if names:
            code = "import os, sys; [os.remove(path) for path in sys.argv[1:] if os.path.isfile(path)]"
            subprocess.run(
                [self._interpreter().path, "-I", "-c", code, *names],
                cwd=directory,
                check=False,
                capture_output=True,
                **self.owner.subprocess_options(),
            )

    # --- packages

    def _environment(self, spec: ReleaseSpec, topology: Topology) -> Path:
        """Return the environment of the release's packages, made where no other release has had the same."""
        return self.environments.make(spec, self._interpreter(), runtime_requirements(topology.config))

    def _interpreter(self) -> Interpreter:
        """Return this machine's interpreter by which the release was specified."""
        assert self.interpreter is not None  # noqa: S101 - set by who specifies
        return self.interpreter

    def mend_environment(self, digest: str) -> None:
        """Make the environment of a former release anew where its Python is gone."""
        link = self.paths.releases / digest / "environment"
        if link.is_symlink() and self.paths.environments in link.resolve().parents:
            self.environments.mend(link.resolve())

    # --- the project

    def _write_secrets(self, spec: ReleaseSpec, directory: Path) -> None:
        secrets = directory / "secrets"
        if secrets.exists() or secrets.is_symlink():
            for name, value in spec.secrets.items():
                write_below(value, PurePath("secrets", name), directory, self.owner, 0o400)
            return
        secrets.mkdir(mode=0o700)
        for name, value in spec.secrets.items():
            write_secret(secrets / name, value)
            (secrets / name).chmod(0o400)

    def _import(self, release: Release, requirements: Path, *, collect: bool) -> None:
        """Prove that the project imports, keep what it says of itself, and collect its static files.

        In one process, since each start of Django costs as much as all that it does here.
        """
        self.say("importing the project and collecting its static files" if collect else "importing the project")
        # The file is made here and given away; what was written there is read as anybody's word, and then kept as ours.
        output = release.directory / FACTS
        make_way(output, stat.S_IFREG)
        output.unlink(missing_ok=True)
        self.owner.make_file(output)
        wanted = [COLLECT] if collect else []
        done = self.run(release, "cluster_runtime.describe", str(output), *wanted)
        unfollowed.replace(output, json.dumps(_told(output)).encode())
        if done.returncode not in (0, NOT_COLLECTED):
            raise ReleaseError(self._not_imported(release, done, requirements))
        for alias in release.facts().get("begun", ()):
            self.say(f"database {alias}: begun with a copy of the project's file")
        if done.returncode == NOT_COLLECTED:
            shown = self._shown(release, done.stderr or done.stdout)
            raise ReleaseError(f"app.collectstatic: collectstatic failed\n{shown}")
        if collect and release.facts().get("static_app"):
            self._finish_static(release)

    def _not_imported(self, release: Release, done: subprocess.CompletedProcess[str], requirements: Path) -> str:
        """Return why a release can't be: what its project has chosen, or what it raised."""
        if done.returncode == REFUSED:
            return done.stderr.strip()
        missing = re.search(r"ModuleNotFoundError: No module named '([^']+)'", done.stderr)
        hint = f"\nIf {missing[1]} is a package, add it to {requirements.name}." if missing else ""
        return f"app.settings: the project does not import\n{self._shown(release, done.stderr)}{hint}"

    def _finish_static(self, release: Release) -> None:
        """Put a compressed copy beside each static file that is worth it."""
        public = str(release.directory / "public")
        done = self.run(release, "cluster_runtime.compress", public, ",".join(compressed_endings()))
        if done.returncode != 0:
            raise ReleaseError(f"app.collectstatic: compression failed\n{self._shown(release, done.stderr)}")

    def _shown(self, release: Release, text: str) -> str:
        """Return the last lines of what a program of the project printed, without any secret's value."""
        return _last(printable(mask(text, release.secrets())))

    def migrate(self, release: Release, aliases: list[str] | None) -> None:
        """Run the release's migrations, once, for these databases (None: every one).

        ReleaseError has the last lines of what migrate said.
        """
        if release.migrated:
            return
        known = release.facts().get("databases")
        if known is None:
            raise ReleaseError(f"app.migrate: release {release.digest} does not say which databases it has")
        unknown = [alias for alias in aliases or () if alias not in known]
        if unknown:
            there = ", ".join(known) or "none"
            raise ReleaseError(f"app.migrate: no database {', '.join(unknown)}; those to migrate are: {there}")
        for alias in known if aliases is None else aliases:
            self.say("migrating the database" if alias == "default" else f"migrating the database {alias}")
            words = ("migrate", "--noinput", "-v", "1", "--database", alias)
            done = self.run(release, "cluster_runtime.manage", *words, say=self.say)
            if done.returncode != 0:
                shown = self._shown(release, done.stdout)
                raise ReleaseError(f"app.migrate: migrate failed in release {release.digest}\n{shown}")
        sync_tree(self.paths.state)  # what the mark says is on the disk before it
        self._note_migrations(release)

    def _note_migrations(self, release: Release) -> None:
        database = release.database
        applied = applied_in(database, self.owner) if database else None
        own = self.paths.data / "databases"
        names = sorted(path.name for path in own.glob("*.sqlite3") if holds_tables(path, self.owner))
        write_durably(release.directory / DATABASES, json.dumps(names))
        write_durably(release.directory / MIGRATED, json.dumps(applied or []))

    def own_databases(self, release: Release) -> list[Path]:
        """Return the project's own sqlite files that held something when the release's migrations had run."""
        try:
            names = read_kept(release.directory / DATABASES, APPLIED) or []
        except HurtFile:
            names = []
        return [self.paths.data / "databases" / name for name in names]

    def put_back_migrations(self, release: Release) -> None:
        """Write down again which migrations the database has, where the mark that they have run does not tell."""
        try:
            read_kept(release.directory / MIGRATED, APPLIED)
        except HurtFile:
            if release.migrated:
                self._note_migrations(release)

    def was_set_back(self, release: Release) -> bool:
        """Tell whether an older database was put back since the release's migrations ran: they run again then."""
        database = release.database
        return database is not None and were_lost(release.directory / MIGRATED, database, self.owner)

    def run_commands(self, release: Release, commands: Sequence[str]) -> None:
        """Run app.release_commands in the release, once; what they write below STATIC_ROOT is served as well.

        An `up` that was killed between them runs all of them again. ReleaseError has the last lines of what one said.
        """
        if not commands or (release.directory / COMMANDED).exists():
            return
        for number, command in enumerate(commands):
            self.say(f"running {command}")
            done = self.run(release, "cluster_runtime.manage", *shlex.split(command), say=self.say)
            if done.returncode != 0:
                words = self._shown(release, done.stdout)
                raise ReleaseError(
                    f"app.release_commands[{number}]: `{command}` failed in release {release.digest}\n{words}"
                )
        self._finish_static(release)
        if not (release.directory / SERVED).exists():  # else instances may have written as well: all of it is kept
            note_files(release.directory, TREE)  # what they made is the release's
        sync_tree(self.paths.state)  # as above
        (release.directory / COMMANDED).touch()

    def judge(self, release: Release, new: Path, former: Path | None) -> str:
        """Return why the release, of which an instance listens at `new`, must not serve; empty where it may.

        former: where an instance of the serving release listens, if there is any.
        """
        words = ("--socket", str(new), *(("--former", str(former)) if former else ()))
        done = self.run(release, "cluster_runtime.gate", *words)
        if done.returncode == 0:
            return ""
        return mask(done.stdout or _last(done.stderr), release.secrets())

    def manage(self, release: Release, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a management command in the release, as the instances' user, and return what it printed."""
        return self.run(release, "cluster_runtime.manage", *arguments)

    def run(
        self, release: Release, module: str, *arguments: str, say: Callable[[str], None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a module of the runtime in the release, as the instances' user; return the end of what it printed.

        It is the project's code: it gets none of this program's descriptors, groups or rights, and no terminal, into
        which it could type. With `say` its progress is told as it goes, and all that it prints is its stdout.
        """
        options = self.owner.subprocess_options()
        with subprocess.Popen(
            [release.python, "-P", "-m", module, *arguments],
            cwd=release.directory,
            env=release.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if say is None else subprocess.STDOUT,
            umask=0o027,
            start_new_session=bool(options),
            preexec_fn=partial(confine, release.project),  # noqa: PLW1509 - no thread of this program holds what it needs
            **options,
        ) as process:
            assert process.stdout is not None  # noqa: S101 - they were asked for
            printed = [_End(process.stdout, say), *([_End(process.stderr)] if process.stderr else [])]
            try:
                status = process.wait()
            except BaseException:
                process.kill()
                raise
            return subprocess.CompletedProcess(
                process.args, status, *(end.text() for end in printed), *([""] if say else [])
            )

    # --- whose it is

    def _give(self, directory: Path) -> None:
        """Give the release to the instances' user, but for what it must not change of itself."""
        for path in directory.iterdir():
            if path.name == SECRETS:
                self.owner.own(*path.iterdir())
                self.owner.let_read(path, 0o710)
            elif path.name not in OURS:
                self.owner.own(path)
        self.owner.let_read(directory / CONFIG, 0o640)
        self.owner.let_read(directory, 0o750)

    def reclaim(self) -> None:
        """Take back what a former version gave to the instances' user: nothing below it could be believed."""
        releases = self.paths.releases
        for directory in releases.iterdir() if self.owner.changed and releases.is_dir() else ():
            if directory.is_symlink() or directory.lstat().st_uid != self.owner.uid:
                continue
            self.owner.hold(directory, 0o700)
            for path in directory.iterdir():
                if path.name in KEPT_FILES:
                    self._keep(path)
                elif path.name == "runtime":
                    self.owner.take(path)
                elif path.name == SECRETS:
                    self.owner.hold(path, 0o710)
                elif path.name == "environment":
                    self._keep_link(path)
            if (directory / CONFIG).exists():
                self.owner.let_read(directory / CONFIG, 0o640)
            self.owner.hold(directory, 0o750)

    def _keep(self, path: Path) -> None:
        """Write a file anew, as root's: who had it open for writing has the former one."""
        try:
            content = unfollowed.read(path)
        except unfollowed.NotAFileError:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        else:
            unfollowed.replace(path, content)

    def _keep_link(self, path: Path) -> None:
        where = path.readlink() if path.is_symlink() else None
        if where is not None and where.parent == Path("../../environments") and where.name not in ("", "..", "."):
            unfollowed.link(path, str(where))
        elif where is not None:
            path.unlink()


class _End:
    """The end of what a program prints; all of it may be more than there is memory for. `say` is told its progress."""

    def __init__(self, stream: IO[bytes], say: Callable[[str], None] | None = None) -> None:
        self._kept = b""
        self._say = say
        self._reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError):  # closed, since who has it open would never end
            read_telling(stream.fileno(), self._keep, self._say or (lambda _message: None))

    def _keep(self, chunk: bytes) -> None:
        self._kept = (self._kept + chunk)[-MOST_PRINTED:]

    def text(self) -> str:
        self._reader.join(timeout=READING_SECONDS)
        return self._kept.decode("utf-8", "replace")


def _told(path: Path) -> dict[str, Any]:
    """Return the facts that the project's process wrote; none where it is something else."""
    try:
        found = json.loads(unfollowed.read(path, MOST_FACTS) or b"{}")
    except (unfollowed.NotAFileError, ValueError, RecursionError):
        return {}
    cleaned = _cleaned(found) if isinstance(found, dict) else {}
    lists = {name: value for name, value in cleaned.items() if name in ("begun", "databases")}
    if not all(isinstance(one, list) and all(isinstance(word, str) for word in one) for one in lists.values()):
        return {}
    return cleaned


def _cleaned(found: Any) -> Any:
    """Return what was read, without what a terminal obeys."""
    if isinstance(found, str):
        return printable(found)
    if isinstance(found, list):
        return [_cleaned(one) for one in found]
    return {printable(name): _cleaned(one) for name, one in found.items()} if isinstance(found, dict) else found


def copy_file(source: Path, target: Path) -> None:
    """Copy a file with its mode and times."""
    shutil.copy2(source, target)


def _last(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LAST_LINES:])
