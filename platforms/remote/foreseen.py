"""Which packages a host is to build for a release, as far as that is known before: nothing is built to find it out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.published import lacking
from cluster.release import ReleaseError, asked_for
from cluster.requirements import normalised
from platforms.remote.wheels import kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cluster.topology import Topology
    from platforms.remote.looked import Seen


def foreseen(topology: Topology, seen: Seen, root: Path, kept: Path) -> tuple[list[str], list[str]]:
    """Return lines of what hosts are to build for the release that is asked for, and of what is not known of that.

    kept: where the wheels are that were built.
    """
    spec = asked_for(topology.config, root, {}, None)
    steps, unsure = [], []
    for (python, platform, codename), host in _first_of_each_kind(seen).items():
        environment = spec.environment_for(f"{python}-{platform}")
        if any(environment in seen.each[name].environments for name in seen.placement.app):
            continue
        target = f"Python {python} on {platform}"
        there = {_named(path.name) for path in kept.glob(f"*-{python}-{platform}-{codename}/*.whl")}
        try:
            found = lacking(spec.requirements, (python, platform))
        except ReleaseError as error:
            why = str(error).strip().partition("\n")[0]
            unsure.append(f"whether packages are built on {host}, since they have no wheel for {target}: {why}")
            continue
        for package in found:
            if (normalised(package.name), package.version) in there:
                continue
            if package.is_compiled:
                steps.append(f"+ {package}: built on {host}; it has no wheel for {target}")
            else:
                unsure.append(f"where {package} is built: here, or on {host} if it is more than Python")
    return steps, unsure


def _first_of_each_kind(seen: Seen) -> Mapping[tuple[str, str, str], str]:
    found: dict[tuple[str, str, str], str] = {}
    for name in seen.placement.app:
        found.setdefault(kind_of(seen.each[name]), name)
    return found


def _named(wheel: str) -> tuple[str, str]:
    """Return the name and the version of a wheel by its file's name."""
    name, version, *_tags = wheel.split("-")
    return normalised(name), version


__all__ = ["foreseen"]
