"""`cluster init`: looks at a Django project, by importing it, and writes its stack file."""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.adopting import AdoptError, in_words, project_database, rows_in
from cluster.config import SessionEngine, StackFileError, load_stack
from cluster.config.kinds import PYTHON_VERSION
from cluster.config.models import App, Requirements
from cluster.console import Terminal, tell, warn
from cluster.errors import CommandError
from cluster.initial.choices import Written, from_files, from_import
from cluster.initial.project import Project, inspect
from cluster.initial.stack_file import kept_secrets, render_stack_file
from cluster.looking import Look, Subject, look_as_served, own_keys
from cluster.machine.ports import is_free
from cluster.release import ReleaseError
from cluster.stack.judge import findings
from cluster.stack.opened import Stack, find_root
from cluster.stack.paths import PYTHONS, STACKS, STATE, stack_path
from platforms.registry import ADOPTING, DEFAULT, adopting, initial, names
from platforms.registry import platform as platform_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.initial.offer import Offer

#: Where new stacks begin to look for a port.
FIRST_PORT = 8080

STACK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

#: Where the environments are that projects are imported in, below the repository.
ENVIRONMENTS = f"{STATE}/.init"


@dataclass
class Wanted:
    """What the command line asks for; None and False: what the project itself says."""

    platform: str = DEFAULT
    settings: str | None = None
    requirements: str | None = None
    python: str | None = None
    sessions: str | None = None
    importing: bool = True
    adopt: bool = False
    force: bool = False


@dataclass(frozen=True)
class NewStack:
    """A stack that gets a file."""

    root: Path
    name: str
    wanted: Wanted

    @property
    def path(self) -> Path:
        """Its file."""
        return stack_path(self.root, self.name)

    @property
    def offer(self) -> Offer:
        """What its platform has for it."""
        return initial(self.wanted.platform).offer(self.name)


def run_init(name: str, directory: Path, wanted: Wanted) -> None:
    """Write stacks/Pulumi.<name>.yaml for the project in `directory`; CommandError says what can't be found."""
    stack = NewStack(find_root(), name, wanted)
    _check(stack)
    project = inspect(directory.resolve(), wanted.settings, wanted.requirements, static=not wanted.importing)
    project.python = wanted.python
    found: Look | None = None
    with tempfile.TemporaryDirectory() as temporary:
        if wanted.importing:
            subject = _subject(project, stack.root, Path(temporary))
            found = look_as_served(subject, {**project.said, **_known_variables(stack)})
        if found is not None and found.facts:
            written = from_import(project, found, stack.offer, wanted.sessions)
        else:
            written = from_files(project, stack.offer, wanted.sessions)
        where = os.path.relpath(project.directory, stack.root)
        port = stack.offer.listen or _free_port(stack)
        text = render_stack_file(project, written, where, port, name, stack.offer)
        if found is not None:
            _take_over(stack, found, written, partial(own_keys, subject, found, project.said))
    stack.path.write_text(text + kept_secrets(stack.path), encoding="utf-8")
    opened = Stack(stack.root, name, load_stack(stack.root, name))  # read back: a mistake here is ours
    _tell_written(stack, project, written, found)
    _tell_lints(opened, found)
    tell(f"next: cluster up {name}")


def _check(stack: NewStack) -> None:
    """Refuse what can't be asked for; CommandError says why."""
    wanted = stack.wanted
    if not STACK_NAME.fullmatch(stack.name):
        raise CommandError(f"{stack.name}: a stack's name has letters, digits, - _ and . only")
    if wanted.platform not in names():
        raise CommandError(f"--platform: must be one of {', '.join(names())}, got {wanted.platform}")
    if wanted.sessions is not None and wanted.sessions not in tuple(SessionEngine):
        raise CommandError(f"--sessions: must be one of {', '.join(SessionEngine)}, got {wanted.sessions}")
    if wanted.python is not None and not re.match(PYTHON_VERSION, wanted.python):
        raise CommandError(f'--python: must be a version such as "3.13", got {wanted.python}')
    if wanted.adopt and (wanted.platform not in names(ADOPTING) or not wanted.importing):
        raise CommandError(f"--adopt: works on platform {' or '.join(names(ADOPTING))}, and imports the project")
    if stack.path.exists() and not wanted.force:
        raise CommandError(f"{STACKS}/{stack.path.name} is there already; --force overwrites it")


def _known_variables(stack: NewStack) -> dict[str, str]:
    """Return the secret variables that the stack has already: whoever was told of a missing one says this again.

    They may be where another platform keeps them, which the stack was on before.
    """
    voice = Terminal()
    everywhere = (initial(platform).secret_environment(stack.root, stack.name, voice) for platform in names())
    known = next((text for text in everywhere if text is not None), None)
    return {name: str(value) for name, value in json.loads(known or "{}").items()}


def _subject(project: Project, root: Path, directory: Path) -> Subject:
    """Return a copy of a project with the packages that `up` would install; CommandError says why there is none."""
    app = App.model_construct(
        project=str(project.directory),
        settings=project.settings,
        requirements=Requirements(file=project.requirements),
        python=project.python,
    )
    try:
        return Subject(
            app,
            project.directory,
            environments=root / ENVIRONMENTS,
            pythons=root / PYTHONS,
            directory=directory,
            say=tell,
        )
    except ReleaseError as error:
        said = str(error)
        # There is no stack file yet.
        how = "; init takes it as --python, and with --no-import it needs none"
        raise CommandError(f"{said}{how}" if said.startswith("app.python: ") else said) from error


def _free_port(stack: NewStack) -> int:
    """Return a port that nobody listens at on this machine, and no other stack file says."""
    taken: set[int] = set()
    for path in (stack.root / STACKS).glob("Pulumi.*.yaml"):
        name = path.name[7:-5]
        if name == stack.name:
            continue
        try:
            taken.update(load_stack(stack.root, name).site.listeners)
        except StackFileError:
            continue  # its own commands say so
    return next(port for port in range(FIRST_PORT, 65536) if port not in taken and is_free("0.0.0.0", port))  # noqa: S104


def _take_over(stack: NewStack, found: Look, written: Written, keys: Callable[[], dict[str, Any]]) -> None:
    """Take over the project's sqlite database and keys where that is asked for; say that it is there where not."""
    database = project_database(found.facts)
    try:
        rows = {} if database is None else rows_in(database)
        if stack.wanted.adopt:
            if database is None or not rows:
                raise CommandError("--adopt: the project has no sqlite database that holds anything")
            adopting(stack.wanted.platform).adopt(stack.root, stack.name, database, keys())
            written.lines.append(f"adopted: {database} ({in_words(rows)}), and the project's own SECRET_KEY")
            if written.engine == SessionEngine.FILE:
                written.decide.append(
                    "sessions: the project has them in files, which are not taken over; sessions.path can name their "
                    "directory (its SESSION_FILE_PATH, else the machine's temporary one) if the instances may write it"
                )
        elif rows:
            how = "say `cluster init` with --adopt --force to take it over, with the project's SECRET_KEY"
            if stack.wanted.platform not in names(ADOPTING):
                how = f"platform {stack.wanted.platform} does not take it over"
            written.decide.append(
                f"database: {database} is in use ({in_words(rows)}), and the stack begins with an empty one; {how}"
            )
    except AdoptError as error:
        raise CommandError(str(error)) from error


# --- what is told


def _tell_written(stack: NewStack, project: Project, written: Written, found: Look | None) -> None:
    """Print what was found, and what somebody must decide."""
    where = f"{STACKS}/{stack.path.name}"
    tell(f"wrote {where}: {project.directory.name} with {project.settings}, {project.requirements}")
    for line in (*project.lines, *written.lines):
        tell(f"  {line}")
    needed = dict(found.missing) if found is not None else dict.fromkeys(sorted(project.environment), "")
    _tell_variables(needed, stack.offer)
    for line in (*project.decide, *written.decide):
        tell(f"to decide: {line}")
    if found is not None and found.failure:
        tell(_why_not(found, project, stack.offer))


def _tell_variables(needed: dict[str, str], offer: Offer) -> None:
    if not needed:
        return
    tell("to decide: app.environment: the project needs these variables, which nothing sets yet:")
    for name, where in needed.items():
        tell(f"    {name}{f' ({where})' if where else ''}")
    tell("  plain values go to app.environment in the stack file;")
    tell(f"  secret ones {offer.how}")


def _why_not(found: Look, project: Project, offer: Offer) -> str:
    lines = [
        f"to decide: app.settings: {project.settings} does not import yet:",
        *(f"    {line}" for line in found.failure.splitlines()),
    ]
    if found.unlisted:
        lines.append(f"app.requirements: nothing in {project.requirements} brings {found.unlisted}; add it there")
    return "\n".join(
        [
            *lines,
            "  the stack file has what the files alone tell; `cluster up` would fail in the same way.",
            f"  A variable that it wants goes {offer.how};",
            "  then say init again, with --force",
        ]
    )


def _tell_lints(stack: Stack, found: Look | None) -> None:
    """Print what the lints say of the project; paths that it writes are in the file already."""
    facts = {} if found is None else {name: value for name, value in found.facts.items() if name != "paths"}
    for finding in findings(stack.config, platform_of(stack, Terminal()).facts(), facts):
        if finding.severity != "note":
            warn(f"{finding.severity}: {finding}")


__all__ = ["Wanted", "run_init"]
