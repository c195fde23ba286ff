"""One of two states of a stack that are compared by their files alone: read from a tree that nobody vouches for."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.config.document import DocumentError, lines_of, read_document
from cluster.config.load import PREFIX, StackFileError, load_stack
from cluster.config.models import OWN_KEYS, SECRET_KEYS
from cluster.errors import ClusterError
from cluster.plan.compare import packages_of, tree_of
from cluster.release import RuntimePaths, asked_for
from cluster.render.nginx import render_nginx
from cluster.render.paths import NginxPaths
from cluster.render.shared import Place, render_shared
from cluster.render.versions import NEW_NGINX, version_in_image
from cluster.services import Kind
from cluster.stack.paths import STACKS, stack_path
from cluster.tls.certificates import Certificate, CertificateError, named
from cluster.topology import build_topology

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cluster.config import ClusterConfig
    from cluster.plan.revisions import Tree
    from cluster.release import ReleaseSpec
    from cluster.render.nginx import NginxConfig
    from cluster.render.versions import Version
    from cluster.topology import Topology

#: Where things are on no machine: of two states of a stack they are in the same place.
NOWHERE = "/srv/cluster"


@dataclass(frozen=True, kw_only=True)
class Code:
    """What a release would be made of. tree: files, links and submodules by their paths from the project's directory.

    packages: what the requirements say of versions.
    """

    spec: ReleaseSpec
    tree: Mapping[str, Path | str]
    packages: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Side:
    """A stack in a tree. secrets: what the file has of each, encrypted or not, by its name; never shown.

    code: None where no release can be made of it, for the reason in `uncoded`.
    """

    tree: Tree
    config: ClusterConfig
    topology: Topology
    secrets: Mapping[str, Any] = field(repr=False)
    nginx: NginxConfig
    code: Code | None
    uncoded: str = ""


class InvalidStackError(ClusterError):
    """A stack file can't be read; `problems` has a line for each thing wrong with it, with its file and line."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def stacks_of(tree: Tree) -> list[str]:
    """Return the names of the stacks that a tree has."""
    found = (tree.root / STACKS).glob("Pulumi.*.yaml") if (tree.root / STACKS).is_dir() else ()
    return sorted(path.name[len("Pulumi.") : -len(".yaml")] for path in found)


def read_side(tree: Tree, stack: str) -> Side | None:
    """Return a stack as a tree has it; None where it has none. InvalidStackError where its file can't be read."""
    path = stack_path(tree.root, stack)
    if not os.path.lexists(path):
        return None
    try:
        document = read_document(path)
        config = document.value.get("config") if isinstance(document.value, dict) else None
        values = {str(key): value for key, value in config.items()} if isinstance(config, dict) else {}
        _check_inside(tree, values)
        loaded = load_stack(tree.root, stack)
    except StackFileError as error:
        raise InvalidStackError(tuple(_located(tree, path, error))) from error
    except DocumentError as error:
        where = f"{STACKS}/{path.name}" + (f": {error.where}" if error.where else "")
        raise InvalidStackError((f"{where}: {tree.plain(error.message)}",)) from error
    except OSError as error:
        raise InvalidStackError((f"{STACKS}/{path.name}: can't be read: {error.strerror}",)) from error
    topology = build_topology(loaded)
    code, why = _code(tree, loaded)
    return Side(
        tree=tree,
        config=loaded,
        topology=topology,
        secrets={name: values[key] for name in (*SECRET_KEYS, *OWN_KEYS) if (key := f"{PREFIX}{name}") in values},
        nginx=_rendered(stack, topology, _certificate(tree, loaded)),
        code=code,
        uncoded=why,
    )


def _check_inside(tree: Tree, values: Mapping[str, Any]) -> None:
    """Refuse a project outside of the repository: of that nothing is read, and both states have the same."""
    app = values.get(f"{PREFIX}app")
    project = app.get("project") if isinstance(app, dict) else None
    if not isinstance(project, str) or "\0" in project:
        return  # the schema says so
    real = os.path.realpath(tree.root / project)
    if not f"{real}/".startswith(f"{os.path.realpath(tree.top)}/"):
        message = "lies outside of the repository, where it has no revision: say `cluster plan` where it is"
        raise DocumentError("app.project", f"{project} {message}")


def _located(tree: Tree, path: Path, error: StackFileError) -> Iterator[str]:
    """Yield the problems of a stack file, each with its line, where the file has one for it."""
    try:
        lines = lines_of(path.read_bytes())
    except (DocumentError, OSError):
        lines = {}
    for problem in error.problems:
        line = _line(problem.path, lines)
        yield f"{error.source}{f':{line}' if line else ''}: {tree.plain(str(problem))}"


def _line(path: str, lines: Mapping[str, int]) -> int | None:
    """Return the line of a key, or else of the nearest one that holds it."""
    while path:
        key, dot, rest = path.partition(".")
        first, bracket, index = key.partition("[")
        whole = f'config["{PREFIX}{first}"]{bracket}{index}{dot}{rest}'
        if whole in lines:
            return lines[whole]
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get("config")


def _code(tree: Tree, config: ClusterConfig) -> tuple[Code | None, str]:
    """Return what a release would be made of, or why none can be."""
    try:
        spec = asked_for(config, tree.root, {}, None)
        # What is shared is the same for all releases: links to it say nothing.
        entries = tree_of(spec.source.tree(NOWHERE))
        packages = packages_of(spec.requirements)
    except (ClusterError, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        # Somebody else's files: whatever a reader of them does not expect is a reason why no release can be made.
        return None, tree.plain(str(error).splitlines()[0] if str(error) else type(error).__name__)
    below = {os.path.relpath(tree.top / path, spec.project): commit for path, commit in tree.submodules.items()}
    included = ("", *(f"{path}/" for path in config.app.include))
    modules = {
        path: f"submodule {commit}"
        for path, commit in below.items()
        if not path.startswith("..") or any(path.startswith(one) for one in included if one)
    }
    return Code(spec=spec, tree={**entries, **modules}, packages=packages), ""


def _rendered(stack: str, topology: Topology, certificate: Certificate | None) -> NginxConfig:
    """Return nginx's configuration; on hosts it is a site's file beside those of others."""
    paths, version = nginx_paths(topology), nginx_version(topology.config)
    if not topology.config.platform.traits.hosts:
        return render_nginx(topology, paths, version, certificate)
    place = Place(name=f"cluster-{stack}", directory=f"{NOWHERE}/nginx")
    return render_shared(topology, paths, version, place, certificate)


def _certificate(tree: Tree, config: ClusterConfig) -> Certificate | None:
    try:
        return named(config, tree.root, dt.datetime.now(dt.UTC))
    except CertificateError:
        return Certificate(label="none that can be read")


def nginx_version(config: ClusterConfig) -> Version:
    """Return the version of nginx that a stack would run, by its file alone; a new one where no file says it."""
    if not config.platform.traits.containers:
        return NEW_NGINX
    return version_in_image(config.images.nginx or config.images.base)


def nginx_paths(
    topology: Topology,
    directory: str = NOWHERE,
    user: str | None = None,
    listens: tuple[str, str, str] = ("", "[::]", "127.0.0.1"),
) -> NginxPaths:
    """Return where nginx finds things, all below one directory. listens: at the site's, by IPv6, and the instances'."""
    address, address_ipv6, instance_address = listens
    return NginxPaths(
        user=user,
        listen_address=address,
        listen_address_ipv6=address_ipv6,
        instance_address=instance_address,
        instances=topology.endpoints(lambda kind: f"{directory}/{kind}", Kind.INSTANCE),
        static=f"{directory}/static",
        shared=f"{directory}/shared",
        logs=f"{directory}/logs",
        temp=f"{directory}/temp",
        pid=f"{directory}/pid",
        internal=f"{directory}/internal",
        closing=f"{directory}/closing",
        maintenance=f"{directory}/maintenance",
        acme=f"{directory}/acme",
        users=f"{directory}/users",
    )


def runtime_paths(topology: Topology) -> RuntimePaths:
    """Return where a release finds things; what a person may read of it are the platform's own places, in words."""
    places = dict.fromkeys(("project", "tree", "databases", "secrets", "static_root", "packages"), NOWHERE)
    return RuntimePaths(
        **places,
        database="the platform's own file",
        sessions="the platform's own directory",
        endpoints=topology.endpoints(lambda kind: f"{NOWHERE}/{kind}"),
    )
