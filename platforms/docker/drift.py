"""What of a stack on Docker was changed by hand, or is broken: what runs beside what Pulumi's state believes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from platforms.docker.observe import release_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from platforms.docker.observe import Observed


def drift(
    observed: Observed,
    believed: Mapping[str, Any],
    *,
    lost: Iterable[str],
    unknown: Iterable[Mapping[str, Any]],
    lacking: Mapping[str, Sequence[str]],
) -> tuple[str, ...]:
    """Return it in words, by name.

    believed: the stack's outputs. lost: containers that the state has and that do not run. unknown: those that no state
    knows. lacking: migrations that the databases of the serving release lack, by alias.
    """
    live, nginx, release = observed.live, believed.get("nginx"), believed.get("release")
    found = [f"container {name} is stopped or removed" for name in sorted(lost)]
    if nginx and live.nginx is not None and live.nginx != nginx:
        found.append("nginx runs another configuration than the one that was put in place last")
    for name in observed.topology.names:
        held = release_of(live.holders.get(name))
        if held is not None and release and held != release:
            found.append(f"{name} serves release {held}, and not {release}")
        elif name in live.holders and held is None and not any(name in one for one in lost):
            found.append(f"{name} holds no name: nothing serves there")
    if release and live.static and live.static != release:
        found.append(f"the static files of release {live.static} are served, and not those of {release}")
    found += [f"container {one['Name'].lstrip('/')} is of no state: a killed run left it" for one in unknown]
    found += [
        f"the database {alias} lacks {len(names)} migrations of the release that serves"
        for alias, names in sorted(lacking.items())
    ]
    return tuple(found)
