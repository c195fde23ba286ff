"""What the commands share: the repository, the stack, the console.

Each function imports what it needs: a command line that is only explained (--help) reads no stack file.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cluster.cli import interrupts
from cluster_runtime.unfollowed import printable

if TYPE_CHECKING:
    from cluster.config import ClusterConfig
    from cluster.lint import Finding
    from cluster.local.cluster import LocalCluster
    from cluster.local.places import Places
    from cluster.rotation import Keys

DEFAULT_STACK = "local"

#: Quoting, variables, patterns and separators of whatever reads a path here.
UNSAFE = frozenset("\"'`\\$%*?[]{};#:|<>&!\N{REPLACEMENT CHARACTER}")


class CommandError(Exception):
    """A command can't do what it was asked; the text says why."""


def find_root() -> Path:
    """Return the repository: the nearest directory upwards that holds `stacks`."""
    from cluster.config.load import STACKS  # noqa: PLC0415

    try:
        here = Path.cwd()
    except FileNotFoundError as error:
        raise CommandError("the current directory was removed; go to the repository, and run it there") from error
    for directory in (here, *here.parents):
        if (directory / STACKS).is_dir():
            check_root(directory)
            return directory
    raise CommandError(f"no directory {STACKS} here or above: run this in the repository")


def check_root(root: Path) -> None:
    """Refuse a path that nginx, Supervisor, shells and PYTHONPATH would not all read alike.

    Spaces and letters of any language are fine.
    """
    text = str(root)
    wrong = [char for char in text if char in UNSAFE or (char != " " and not char.isprintable())]
    if wrong:
        listed = ", ".join(dict.fromkeys(map(repr, wrong)))
        raise CommandError(
            f"the repository's path, {text!r}, holds {listed}, which nginx, Supervisor or shells read as something "
            "else: move it to a path without"
        )


@dataclass(frozen=True)
class Stack:
    """A stack, and its file read."""

    root: Path
    name: str
    config: ClusterConfig

    @property
    def places(self) -> Places:
        """Where the stack is on this machine."""
        from cluster.local.places import Places  # noqa: PLC0415 - only for platform local

        return Places(self.root, self.name)

    def engine_host(self) -> str:
        """Return the stack's docker:host; empty for the engine of the environment."""
        import yaml  # noqa: PLC0415

        from cluster.config.load import stack_path  # noqa: PLC0415

        document = yaml.safe_load(stack_path(self.root, self.name).read_text(encoding="utf-8"))
        return str((document.get("config") or {}).get("docker:host") or "")

    def local(self) -> LocalCluster:
        """Return the cluster on this machine."""
        from cluster.local.cluster import LocalCluster  # noqa: PLC0415 - only for platform local

        return LocalCluster(self.places, self.config, say)


class Commands(Protocol):
    """What each platform's module of commands has."""

    def run_up(self, stack: Stack, *, pull: bool = False) -> None:
        """Make the cluster what its stack file says; `pull`: on images that are pulled anew."""
        ...

    def run_rollback(self, stack: Stack, to: str | None) -> None:
        """Let a former release serve."""
        ...

    def keys(self, stack: Stack) -> Keys:
        """Return where the stack's keys are."""
        ...

    def sessions(self, stack: Stack) -> dict[str, Any] | None:
        """Return what an instance says of the session store; None where none says it."""
        ...

    def run_down(self, stack: Stack, *, delete_data: bool, yes: bool) -> None:
        """Stop everything."""
        ...

    def run_status(self, stack: Stack, *, as_json: bool) -> bool:
        """Print what runs; tell whether all is as it should be."""
        ...

    def run_verify(self, stack: Stack, *, as_json: bool) -> bool:
        """Check with real requests; tell whether all is well."""
        ...

    def run_logs(self, stack: Stack, names: list[str], *, lines: int, follow: bool) -> None:
        """Print logs."""
        ...

    def run_manage(self, stack: Stack, arguments: list[str]) -> int:
        """Run a management command; return its exit status."""
        ...


def commands(stack: Stack) -> Commands:
    """Return the commands of the stack's platform; CommandError where there are none yet."""
    from cluster.config import Platform  # noqa: PLC0415

    if stack.config.platform is Platform.LOCAL:
        from cluster.cli import local  # noqa: PLC0415 - each command imports only what it needs

        return local
    if stack.config.platform is Platform.DOCKER:
        from cluster.cli import docker  # noqa: PLC0415

        return docker
    raise CommandError(f"platform: {stack.config.platform} is not there yet; local and docker are")


def stack_or_word(name: str) -> tuple[str, list[str]]:
    """Return the stack that a command line's first word names; one that names none is a word for the default stack."""
    from cluster.config.load import stack_path  # noqa: PLC0415

    if stack_path(find_root(), name).exists():
        return name, []
    return DEFAULT_STACK, [name]


def open_stack(name: str) -> Stack:
    """Read the stack file of `name`."""
    from cluster.config import load_stack  # noqa: PLC0415

    root = find_root()
    return Stack(root, name, load_stack(root, name))


def say(line: str) -> None:
    """Print a step as it is begun."""
    tell(f"  {line}")


def tell(line: str) -> None:
    """Print a result, without what a terminal obeys: names of files and words of the project's may be in it.

    Nobody reading it any more (`cluster up | head`) does not end what is being done.
    """
    interrupts.check()
    try:
        print(printable(line), flush=True)  # noqa: T201
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn(line: str) -> None:
    """Print what is not the result."""
    print(printable(line), file=sys.stderr, flush=True)  # noqa: T201


def findings(stack: Stack, project: dict[str, object] | None = None) -> list[Finding]:
    """Return what the lints find in a stack, with what is known of this machine and the project."""
    from cluster.config import Platform  # noqa: PLC0415
    from cluster.lint import Facts, lint  # noqa: PLC0415
    from cluster.local.nginx import NginxError, find_nginx  # noqa: PLC0415
    from cluster.render.nginx import version_in_image  # noqa: PLC0415

    local = stack.config.platform is Platform.LOCAL
    version = version_in_image(stack.config.images.nginx or stack.config.images.base) if not local else None
    if local:
        try:
            version = find_nginx()[1]
        except NginxError:
            version = None  # `up` says so
    facts = Facts(
        root=stack.root,
        nginx=version,
        secrets=_secret_names(stack) if local else None,
        project=project,
        other_listens=_other_listens(stack) if local else {},
        privileged=os.geteuid() == 0 if local else None,
        stack=stack.name,
        now=dt.datetime.now(dt.UTC),
        bases=_bases(stack) if stack.config.platform is Platform.DOCKER else {},
    )
    return lint(stack.config, facts)


def _bases(stack: Stack) -> dict[str, dt.datetime]:
    """Return when the bases of a stack's images were made, as far as its engine says so."""
    if stack.config.images.as_of is not None:
        return {}
    from cluster.docker.bases import ages  # noqa: PLC0415 - only for platform docker
    from cluster.docker.engine import Engine  # noqa: PLC0415
    from cluster.topology import build_topology  # noqa: PLC0415

    return ages(Engine(stack.engine_host()), build_topology(stack.config))


def _secret_names(stack: Stack) -> frozenset[str]:
    directory = stack.places.secrets
    return frozenset(path.name for path in directory.iterdir()) if directory.is_dir() else frozenset()


def _other_listens(stack: Stack) -> dict[int, str]:
    """Return the ports of other stacks on this machine."""
    from cluster.config import Platform, StackFileError, load_stack  # noqa: PLC0415
    from cluster.config.load import STACKS  # noqa: PLC0415

    found = {}
    for path in sorted((stack.root / STACKS).glob("Pulumi.*.yaml")):
        name = path.name[7:-5]
        if name == stack.name:
            continue
        try:
            other = load_stack(stack.root, name)
        except StackFileError:
            continue  # its own commands say so
        if other.platform is Platform.LOCAL:
            found[other.site.listen] = name
    return found


def check_lints(stack: Stack, project: dict[str, object] | None = None) -> None:
    """Print warnings; CommandError where a lint forbids the stack."""
    from cluster.lint import Severity  # noqa: PLC0415

    found = findings(stack, project)
    for finding in found:
        if finding.severity is Severity.WARNING:
            warn(f"warning: {finding}")
    errors = [str(finding) for finding in found if finding.severity is Severity.ERROR]
    if errors:
        raise CommandError("\n".join(errors))
