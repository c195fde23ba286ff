"""Releases as hosts keep them: what two of them differ in, whichever checkout made them."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.plan.compare import PARTS, compare_code, compare_secrets, packages_of, tree_of
from cluster.plan.releases import Side, packages_in, same_settings, tree_in
from cluster.release import RUNTIME, asked_for, runtime_config
from cluster.source import TREE, Source, project_place
from cluster.stack.history import History
from platforms.remote.paths import runtime_paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cluster.config import ClusterConfig
    from cluster.stack.paths import StackPaths
    from cluster.topology import Topology
    from platforms.remote.host.paths import HostPaths
    from platforms.remote.looked import Seen


class NoReleaseError(Exception):
    """What a host says of a release can't be one."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A release for a comparison.

    environment: names its packages, and the Python that they are for. runtime: digests of the runtime's files, by their
    paths. files: where each file of it is here, by its path in a release. above: tells its local packages that do not
    lie in the project from others.
    """

    side: Side
    environment: str
    runtime: Mapping[str, str]
    files: Mapping[str, Path]
    above: str = ""


def history_of(paths: StackPaths, seen: Seen) -> History:
    """Return which releases have served and are on the hosts, by what this checkout knows and what the first host has.

    What this checkout does not know another one has made. One that failed never served, and is there all the same.
    """
    found, served = History.load(paths), seen.leader.served
    if not set(served) <= set(found.releases):
        found.join(served)
    found.releases = [release for release in found.releases if release in seen.leader.releases]
    return found


def wanted(  # noqa: PLR0913 - what a release is told by
    topology: Topology,
    places: HostPaths,
    root: Path,
    secrets: Mapping[str, str],
    *,
    digest: str,
    target: str,
) -> Kept:
    """Return the release that the stack file and the code ask for, whose digest is known; ReleaseError as of a release.

    target: for which Python and which platform its packages are, in the name of their environment.
    """
    config = topology.config
    spec = asked_for(config, root, secrets, None)
    tree = tree_of(spec.source.tree(str(places.shared)))
    place = project_place(config)
    own = {os.path.normpath(f"{place}/{path}"): source for path, source in tree.items() if isinstance(source, Path)}
    runtime = {f"runtime/{RUNTIME.name}/{path}": source for path, source in _runtime()}
    return Kept(
        side=Side(
            tree=tree,
            packages=packages_of(spec.requirements),
            secrets=secrets,
            runtime=runtime_config(config, runtime_paths(topology, places, digest), digest),
        ),
        environment=spec.environment_for(target),
        runtime={path: digest_of(source) for path, source in runtime.items()},
        files={**own, **runtime},
        above=spec.parts.get("packages", ""),
    )


def _runtime() -> Iterator[tuple[str, Path]]:
    found = tree_of(Source(project=RUNTIME, root=RUNTIME).tree(""))
    return ((path, source) for path, source in found.items() if isinstance(source, Path))


def fetched(  # noqa: PLR0913 - what a release is told by
    ask: Callable[[str, Mapping[str, str]], dict[str, Any]],
    release: str,
    config: ClusterConfig,
    secrets: Mapping[str, str],
    directory: Path,
    *,
    beside: Mapping[str, Path],
) -> Kept:
    """Return a release that a host keeps, put down in a directory that is empty.

    ask: asks the host for one by its digest, and by the digests of the files that are known here. beside: these files,
    by their paths in a release. HostError where it is not there, NoReleaseError where it is none.
    """
    said = ask(release, {path: digest_of(source) for path, source in beside.items()})
    files = _put_down(said["files"], directory.resolve(), beside)
    tree, project = directory / TREE, directory / project_place(config)
    return Kept(
        side=Side(
            tree=tree_in(tree, project),
            packages=packages_in(config.app, project),
            secrets=secrets,
            runtime=said["config"],
        ),
        environment=said["environment"],
        runtime={path: one["digest"] for path, one in said["files"].items() if path.startswith("runtime/")},
        files=files,
        above=said.get("above", ""),
    )


def changed_parts(old: Kept, new: Kept) -> tuple[str, ...]:
    """Return which parts of two releases differ, by their names in PARTS."""
    before, after = (one.environment.partition("-") for one in (old, new))
    found = {
        "code": bool(compare_code(old.side.tree, new.side.tree)),
        "runtime": old.runtime != new.runtime,
        "requirements": before[0] != after[0],
        "python": before[2] != after[2],
        "packages": old.above != new.above,
        "settings": not same_settings(old.side, new.side),
        "secrets": bool(compare_secrets(old.side.secrets, new.side.secrets)),
    }
    # All else that a release's digest is of: how its units are made.
    return tuple(part for part in PARTS if found.get(part)) or ("platform",)


def digest_of(path: Path) -> str:
    """Return the digest of a file by which hosts tell it from others; empty for one that can't be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _put_down(said: Mapping[str, Any], directory: Path, beside: Mapping[str, Path]) -> dict[str, Path]:
    """Write what a host says of a release's files; links last, and nothing by way of one."""
    files = {}
    for path, one in said.items():
        if "link" not in one:
            files[path] = _put_file(_within(directory, path), one, beside.get(path))
    for path, one in said.items():
        if "link" in one:
            _within(directory, path).symlink_to(one["link"])
    return files


def _put_file(there: Path, one: Mapping[str, Any], source: Path | None) -> Path:
    if "text" in one:
        there.write_bytes(base64.b64decode(one["text"]))
    elif source is not None and digest_of(source) == one["digest"]:
        there.write_bytes(source.read_bytes())
    else:
        # Nobody reads what is in so large a file, only that it is another one.
        with there.open("wb") as file:
            file.truncate(one["size"])
    there.chmod(0o755 if one["program"] else 0o644)
    return there


def _within(directory: Path, path: str) -> Path:
    """Return where a path of a release is below a directory; NoReleaseError where it leads out of it."""
    there = directory / path
    if ".." in path.split("/") or path.startswith("/"):
        raise NoReleaseError(f"{path}: not what a release holds")
    there.parent.mkdir(parents=True, exist_ok=True)
    if there.parent.resolve() != there.parent:
        raise NoReleaseError(f"{path}: not what a release holds")
    return there


__all__ = ["Kept", "NoReleaseError", "changed_parts", "fetched", "history_of", "wanted"]
