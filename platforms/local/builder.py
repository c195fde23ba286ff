"""Makes releases on this machine: the environment of packages, the copy of the code, static files."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from cluster.kept import COMPLETE, make_way, point_at, remove_tree, sync_tree, vouch, write_durably
from cluster.machine.confined import MOST_FACTS
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
from cluster.source import TREE, Source, write_tree
from cluster.stack.secrets import write_secret
from cluster_runtime import unfollowed
from cluster_runtime.describe import COLLECT, COMPRESS, NOT_COLLECTED, NOT_COMPRESSED, REFUSED
from cluster_runtime.paths import LEFT_OUT
from cluster_runtime.prepare import mask
from cluster_runtime.unfollowed import printable
from platforms.local.mending import put_back, write_below
from platforms.local.migrating import Migrating
from platforms.local.ownership import Ownership
from platforms.local.project_code import ProjectCode, last_lines
from platforms.local.release import COMMANDED, CONFIG, FACTS, PARTS, SECRETS, Release
from platforms.local.shared_data import SharedData
from platforms.local.written import FILES, SERVED, known_files, note_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cluster.interpreters import Interpreter
    from cluster.machine.owner import Owner
    from cluster.source import Entry
    from cluster.topology import Topology
    from platforms.local.paths import LocalPaths

#: What of a release its mark vouches for. (Its static files too: nginx would serve empty ones.)
VOUCHED = (TREE, PACKAGES, SOURCES, "runtime", "public", SECRETS, CONFIG, PARTS, FACTS, FILES, LEFT_OUT)


class Builder:
    """Makes releases of one stack. `say` is told what it is doing."""

    def __init__(self, paths: LocalPaths, owner: Owner, say: Callable[[str], None]) -> None:
        self.paths = paths
        self.owner = owner
        self.say = say
        self._whole: dict[str, Release] = {}  # looked at once a command: each has thousands of files
        self.environments = Environments(directory=paths.environments, pythons=paths.pythons, owner=owner, say=say)
        self.interpreter: Interpreter | None = None
        self.code = ProjectCode(owner)
        self.shared = SharedData(paths, owner, say)
        self.migrations = Migrating(paths, owner, self.code, say)
        self.ownership = Ownership(paths, owner)

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
        self.ownership.give(directory)
        self.shared.make(spec.source, release)
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
        take_compiled(directory / "runtime" / RUNTIME.name, self._interpreter().version)
        command = [self._interpreter().path, "-I", "-S", "-m", "compileall", "-q"]
        subprocess.run([*command, str(directory / "runtime")], cwd="/", check=False, capture_output=True)
        theirs = [str(directory / name) for name in (TREE, PACKAGES, SOURCES)]
        options = self.owner.subprocess_options()
        subprocess.run([*command, *theirs], cwd="/", check=False, capture_output=True, **options)

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
        wanted = [COLLECT, f"{COMPRESS}={','.join(compressed_endings())}"] if collect else []
        done = self.code.run(release, "cluster_runtime.describe", str(output), *wanted)
        unfollowed.replace(output, json.dumps(_told(output)).encode())
        failures = {NOT_COLLECTED: "collectstatic", NOT_COMPRESSED: "compression"}
        if done.returncode not in (0, *failures):
            raise ReleaseError(self._not_imported(release, done, requirements))
        for alias in release.facts().get("begun", ()):
            self.say(f"database {alias}: begun with a copy of the project's file")
        if done.returncode in failures:
            shown = self.code.shown(release, done.stderr or done.stdout)
            raise ReleaseError(f"app.collectstatic: {failures[done.returncode]} failed\n{shown}")

    def _not_imported(self, release: Release, done: subprocess.CompletedProcess[str], requirements: Path) -> str:
        """Return why a release can't be: what its project has chosen, or what it raised."""
        if done.returncode == REFUSED:
            return done.stderr.strip()
        missing = re.search(r"ModuleNotFoundError: No module named '([^']+)'", done.stderr)
        hint = f"\nIf {missing[1]} is a package, add it to {requirements.name}." if missing else ""
        return f"app.settings: the project does not import\n{self.code.shown(release, done.stderr)}{hint}"

    def _finish_static(self, release: Release) -> None:
        """Put a compressed copy beside each static file that is worth it."""
        public = str(release.directory / "public")
        done = self.code.run(release, "cluster_runtime.compress", public, ",".join(compressed_endings()))
        if done.returncode != 0:
            raise ReleaseError(f"app.collectstatic: compression failed\n{self.code.shown(release, done.stderr)}")

    def run_commands(self, release: Release, commands: Sequence[str]) -> None:
        """Run app.release_commands in the release, once; what they write below STATIC_ROOT is served as well.

        An `up` that was killed between them runs all of them again. ReleaseError has the last lines of what one said.
        """
        if not commands or (release.directory / COMMANDED).exists():
            return
        for number, command in enumerate(commands):
            self.say(f"running {command}")
            done = self.code.run(release, "cluster_runtime.manage", *shlex.split(command), say=self.say)
            if done.returncode != 0:
                words = self.code.shown(release, done.stdout)
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
        done = self.code.run(release, "cluster_runtime.gate", *words)
        if done.returncode == 0:
            return ""
        return mask(done.stdout or last_lines(done.stderr), release.secrets())


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


def take_compiled(runtime: Path, version: str) -> None:
    """Copy to a release's runtime what is compiled already of this one for Python `version`.

    Each file has its time with it, by which compileall, and whoever imports it, tells whether it is of the same text.
    """
    tag = "cpython-" + "".join(version.split(".")[:2])
    for compiled in RUNTIME.rglob(f"__pycache__/*.{tag}.pyc"):
        source = runtime / compiled.parent.parent.relative_to(RUNTIME) / f"{compiled.name.partition('.')[0]}.py"
        if not source.is_file() or compiled.is_symlink():
            continue
        target = source.parent / "__pycache__" / compiled.name
        new = target.with_name(f".{target.name}.new")  # half a file would be taken for one that is compiled
        try:
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(compiled, new)
            shutil.copymode(source, new)
            new.rename(target)
        except OSError:  # no room, or removed meanwhile: it is compiled, by compileall or by each process
            new.unlink(missing_ok=True)
            return
