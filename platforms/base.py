"""What the commands and the components ask of a platform, and what it answers."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from cluster_runtime.status import READY, SERVING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import pulumi

    from cluster.checks import Check
    from cluster.config import ClusterConfig
    from cluster.initial.offer import Offer
    from cluster.lint import Facts
    from cluster.maintenance import Maintained, Maintenance
    from cluster.plan import Planned
    from cluster.release import ReleaseSpec, RuntimePaths
    from cluster.render.nginx import NginxConfig
    from cluster.stack.opened import Stack
    from cluster.stack.rotation import StackKeys
    from cluster.tls.certificates import Certificate
    from cluster.tls.renewing import Account
    from cluster.topology import Topology

#: Names a former release that is to serve again (`cluster rollback`), instead of the one that the code asks for.
RELEASE_VARIABLE = "CLUSTER_RELEASE"


class Voice(Protocol):
    """Who is told what is being done."""

    def say(self, line: str) -> None:
        """Tell a step as it is begun."""
        ...

    def warn(self, line: str) -> None:
        """Tell what somebody should look at."""
        ...


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process of an instance.

    state: its own word (starting, ready, serving, draining), or the platform's where it says none. since: seconds since
    the epoch. container: the container that it is in, where it is in one. sessions: what it says of them.
    """

    release: str
    state: str
    since: float | None
    pid: int
    container: str | None
    message: str
    sessions: dict[str, Any] | None

    @classmethod
    def of(  # noqa: PLR0913 - what a platform knows of it
        cls, said: Mapping[str, Any], *, release: str, state: str, lives: bool, pid: int, container: str | None = None
    ) -> Process:
        """Return it by what it says of itself, or said before it ended (`lives`: it has not); empty for nothing."""
        return cls(
            release=release,
            state=state,
            since=said.get("since") if lives else None,
            pid=pid,
            container=container,
            message=said.get("message", ""),
            sessions=said.get("sessions"),
        )


def by_holder(said: Mapping[str, Any], *, holds: bool) -> dict[str, Any]:
    """Return what a process of an instance says of itself; whether it serves, by whether it holds the name.

    It says so itself a moment after the name was given or taken away, and later where it is busy.
    """
    state = said.get("state")
    return {**said, "state": SERVING if holds else READY} if state in (READY, SERVING) else dict(said)


@dataclass(frozen=True, kw_only=True)
class InstanceStatus:
    """An instance: its share of new requests (0 to 1), the release that holds its name, and whether all is well."""

    instance: str
    share: float
    release: str | None
    ok: bool
    processes: Sequence[Process]


@dataclass(frozen=True, kw_only=True)
class ServiceStatus:
    """Whatever else runs: a worker, a schedule, a memcached node, a broker, a database, nginx where it is a container.

    kind: as the topology calls it (cluster.services.Kind). state: its own word where it has one (starting, running,
    waiting, crashed, draining), else the platform's. release: of a worker and a schedule. message: what is wrong with
    it. since: of the state, seconds since the epoch.
    """

    service: str
    kind: str
    state: str
    ok: bool
    release: str | None = None
    message: str = ""
    since: float | None = None


@dataclass(frozen=True, kw_only=True)
class NginxStatus:
    """nginx: the digest of the configuration that it says it runs, and whether that is the stack file's.

    runs: whether its process does. version: of the process, where it is known.
    """

    digest: str | None
    current: bool
    runs: bool
    version: str | None = None


@dataclass(frozen=True, kw_only=True)
class Status:
    """What runs of a stack.

    ok: whether all is as the stack file says. release: the one that serves; None where none does, or not one alone.
    releases: those that are still here, the latest last. store: what an instance says of the session store.
    maintenance: what visitors are told in place of the site; None where they get the site.
    troubles: what is wrong beside that, a line each. notes: what is worth knowing. drift: what was changed by hand, or
    is broken, beside what the last `up` made; None where nobody has asked.
    """

    ok: bool
    release: str | None
    releases: Sequence[str]
    nginx: NginxStatus
    store: dict[str, Any] | None
    instances: Sequence[InstanceStatus]
    services: Sequence[ServiceStatus]
    maintenance: Maintenance | None = None
    troubles: Sequence[str] = ()
    notes: Sequence[str] = ()
    drift: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """A program that is run once, with the input and the output of who asks for it.

    environment: all of its variables; None for those of who asks.
    directory: entered as the program's user, who may be able to change what leads there; None: it does not matter.
    identity: that user, as subprocess.Popen is told (user, group, extra_groups); empty for who runs this.
    """

    command: Sequence[str]
    environment: Mapping[str, str] | None = None
    directory: Path | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LogSource:
    """A log: whose it is, as it is shown, the words by which it is asked for, and the program that prints it."""

    name: str
    words: frozenset[str]
    printed: Invocation


def run_told(invocation: Invocation, say: Callable[[str], None]) -> int:
    """Run a program of this user's that asks nothing, and `say` each line that it prints; return its exit status."""
    with subprocess.Popen(
        invocation.command,
        env=invocation.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        for line in process.stdout or ():
            say(line.decode("utf-8", "replace").rstrip())
        return process.wait()


@dataclass(frozen=True, kw_only=True)
class Forward:
    """The stack file and the code as they are now are to serve; `pull`: on base images that are pulled anew."""

    pull: bool = False


@dataclass(frozen=True, kw_only=True)
class Back:
    """A former release is to serve again; None for the one before."""

    release: str | None = None


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What came of a change. checks: sends real requests to what serves now. maintenance: in which the site is left."""

    release: str
    changed: bool
    checks: Callable[[], list[Check]]
    maintenance: Maintenance | None = None


@dataclass(frozen=True, kw_only=True)
class Change:
    """What `up` or `rollback` is about to do.

    lines: what it costs, and then what will be done, as `plan` shows it; empty where nothing is, or where only the
    engine knows, which tells it step by step.
    apply: does it. CommandError, or another ClusterError, says why it could not, and what serves meanwhile.
    """

    lines: Sequence[str]
    apply: Callable[[], Applied]


class Gate(Protocol):
    """What the lints say of a stack: it tells the warnings, and raises CommandError where they forbid it."""

    def __call__(self, config: ClusterConfig, facts: Facts, project: dict[str, object] | None = None) -> None:
        """Judge a stack; `project`: what a release says of it, once there is one."""
        ...


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Where a team keeps what a stack is: the state's URL, and what encrypts its secrets; None: as it is, or alone."""

    backend: str | None = None
    secrets_provider: str | None = None


class Platform(Protocol):
    """One stack on its platform: what the commands ask of it. It prints nothing: it has a voice.

    Each raises ClusterError, of which a person reads the text, where it can't do what it is asked for.
    """

    def facts(self) -> Facts:
        """Return what the lints may look at beside the stack file; nothing is changed by it."""
        ...

    def set_up(self, shared: Shared) -> None:
        """Make what a stack file alone needs before its first `up`; CommandError where that is nothing."""
        ...

    def plan(self, wanted: Forward | Back) -> Planned:
        """Look at what is to be done, and change nothing: nobody else is kept waiting.

        What forbids it is in `refused`; ClusterError where not even that can be said.
        """
        ...

    def change(self, wanted: Forward | Back, gate: Gate) -> AbstractContextManager[Change]:
        """Look at what is to be done, and keep others from changing the stack until it is left.

        gate: is asked before anything is done, and again once a release says what its project is.
        """
        ...

    def keys(self) -> StackKeys:
        """Return where the stack's keys are."""
        ...

    def hosts_keys(self) -> StackKeys | None:
        """Return where it is of what the stack's hosts make their certificates; None where they need none."""
        ...

    def sessions(self) -> dict[str, Any] | None:
        """Return what an instance says of the session store; None where none says it."""
        ...

    def data(self) -> str:
        """Return in words what there is of a stack's data, and where: what `down --delete-data` deletes."""
        ...

    def maintenance(self, wanted: Maintenance | None) -> Maintained:
        """Let visitors get a page in place of the site, or the site again for None; no process of the app is touched.

        It outlasts whatever else is changed. Where nginx does not run, it begins with that.
        """
        ...

    def maintained(self) -> Maintenance | None:
        """Return what visitors are told in place of the site; None where they get the site."""
        ...

    def down(self, *, delete_data: bool) -> bool:
        """Stop everything; with `delete_data` remove the data too. False where the stack was never up."""
        ...

    def status(self) -> Status:
        """Look at what runs."""
        ...

    def drift(self) -> Sequence[str]:
        """Return what was changed by hand, or is broken, beside what the last `up` made, a line each, by name."""
        ...

    def verify(self) -> list[Check]:
        """Check what serves with real requests; CommandError where nothing does."""
        ...

    def nginx_config(self) -> NginxConfig:
        """Return nginx's configuration as `up` would put it in place; for a new nginx where none is known."""
        ...

    def logs(self, *, lines: int, follow: bool) -> list[LogSource]:
        """Return all logs, with commands that print their last `lines` lines, and go on with `follow`."""
        ...

    def program(self, words: Sequence[str], *, terminal: bool) -> Invocation:
        """Return how a program runs once in the serving release (`manage.py NAME` for one).

        terminal: whether its input and output are a person's. CommandError where no release serves.
        """
        ...


@runtime_checkable
class OnHosts(Protocol):
    """What a platform has beside that whose stacks run on hosts."""

    def forget_host(self, name: str, *, gone: bool) -> None:
        """Forget a host that is gone for good, and that the stack file does not name any more.

        gone: it is not asked, whoever may answer where it was. CommandError where it is named, was never there, or
        (unless it is gone) answers, or can't be asked.
        """
        ...


class Platforms(Protocol):
    """What each platform's module for the commands has."""

    def platform(self, stack: Stack, voice: Voice) -> Platform:
        """Return a stack on it, which tells `voice` what it does."""
        ...


# --- a stack that has no file yet


class Initial(Protocol):
    """What each platform's module for stacks that have no file yet has."""

    def offer(self, stack: str) -> Offer:
        """Return what the file of a stack of this name says of this platform."""
        ...

    def secret_environment(self, root: Path, stack: str, voice: Voice) -> str | None:
        """Return the secret variables that the stack has already here, a JSON object; None where it has none."""
        ...


class Early(Protocol):
    """What the module of a platform has that begins before a stack file is read."""

    def begin(self, root: Path) -> None:
        """Let what a change or a plan takes begin by itself; nothing waits for it, and nothing is changed."""
        ...


class Adopting(Protocol):
    """What the module of each platform has that takes over what a project has in use."""

    def adopt(self, root: Path, stack: str, database: Path, keys: Mapping[str, Any]) -> None:
        """Make an sqlite file's content the stack's database, and the project's own keys the stack's.

        keys: `secret_key` and `secret_key_fallbacks`, as cluster_runtime.own_keys says them. AdoptError where it can't
        be, since the stack has one of them already for example.
        """
        ...


# --- the platforms whose resources Pulumi makes: what one operation makes, the next one is given


@dataclass(frozen=True, kw_only=True)
class Store:
    """What keeps sessions. nodes: the sockets or addresses of memcached nodes, as the instances see them."""

    nodes: pulumi.Output[list[str]]


@dataclass(frozen=True, kw_only=True)
class MadeDatabase:
    """What the platform made for the default database; how an instance gets at it is the platform's own business."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A release that is built, with its database migrated, and that nobody runs yet."""


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Instances that hold their names. release: its digest, known once all of them serve it."""

    release: pulumi.Output[str]


@dataclass(frozen=True, kw_only=True)
class Site:
    """nginx. digest: of its configuration, known once it runs that."""

    digest: pulumi.Output[str]


class Resources(Protocol):
    """What the components make their resources with: one site on one platform.

    Each operation takes the name of its component, which what it makes is called after, what the operations before it
    returned, and the options of what it makes, whose parent is the component. TypeError where another platform returned
    that; RunError where something can't be made at all.
    """

    def store(self, name: str, topology: Topology, opts: pulumi.ResourceOptions) -> Store:
        """Make what keeps sessions."""
        ...

    def database(self, name: str, topology: Topology, opts: pulumi.ResourceOptions) -> MadeDatabase:
        """Make the default database, where the stack file asks for one."""
        ...

    def prepare(  # noqa: PLR0913, PLR0917 - what a release is prepared of
        self,
        name: str,
        topology: Topology,
        spec: ReleaseSpec,
        store: Store,
        made: MadeDatabase,
        opts: pulumi.ResourceOptions,
    ) -> Prepared:
        """Build a release, collect its static files, migrate its database and prove that it gets healthy."""
        ...

    def instances(
        self,
        name: str,
        topology: Topology,
        spec: ReleaseSpec,
        prepared: Prepared,
        opts: pulumi.ResourceOptions,
    ) -> Instances:
        """Start the release's instances beside those that serve, and let them take the names."""
        ...

    def site(self, name: str, topology: Topology, instances: Instances, opts: pulumi.ResourceOptions) -> Site:
        """Put nginx before the instances."""
        ...


class Ground(Protocol):
    """A site as a Pulumi program finds it on its platform, before it makes anything; ClusterError where that is away.

    What runs is looked at once, when it is first asked for.
    """

    def facts(self, config: ClusterConfig, secrets: frozenset[str]) -> Facts:
        """Return what the lints may look at beside the stack file; `secrets`: the names of those that there are."""
        ...

    def made_secrets(self, config: ClusterConfig) -> dict[str, str]:
        """Return the secrets that the platform makes of its own, once the lints have passed: a database's URL."""
        ...

    def served(self, topology: Topology) -> Sequence[Mapping[str, str] | None]:
        """Return what each instance that serves says of its sessions; None where one says nothing."""
        ...

    def sessions(self) -> dict[str, Any] | None:
        """Return what an instance says of the session store; None where none says it."""
        ...

    def paths(self, topology: Topology) -> RuntimePaths:
        """Return where a release's configuration finds things, whatever the release is."""
        ...

    def digest(self, topology: Topology) -> str:
        """Return a digest of what else an instance is made of here: another one makes another release."""
        ...

    def former(self, release: str) -> dict[str, Any]:
        """Return the configuration file of a former release; OSError where it is gone."""
        ...

    def resources(
        self, secrets: pulumi.Output[str], certificate: Certificate | None, users: str, account: Account | None = None
    ) -> Resources:
        """Return what makes the resources.

        secrets: a JSON object, a secret output. users: what nginx reads of the site's users, a secret too.
        account: by which the site's certificate is asked for (site.tls.acme).
        """
        ...


class Grounds(Protocol):
    """What each Pulumi platform's module for programs has."""

    def ground(self, root: Path, stack: str, site: str | None) -> Ground:
        """Return where a site stands.

        root: the directory that its paths are meant from. stack: its stack file. site: its name among the sites of a
        program; None for the one that the commands know by the program's stack.
        """
        ...
