"""What scripts/task.sh is told: a container that does something once, with the mounts of a release."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pulumi

from platforms.docker.container_paths import STATIC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.topology import Topology
    from platforms.docker.containers import Mount

#: Only one task of a stack runs at a time: that of an `up` that was killed may still be at it.
TASK_LOCK = f"{STATIC}/lock"


def task(
    topology: Topology, image: pulumi.Input[str], network: pulumi.Input[str], mounts: Sequence[Mount]
) -> dict[str, pulumi.Input[str]]:
    """Return the environment of the script."""
    return {
        "IMAGE": image,
        "NETWORK": network,
        "MEMORY": str(int(topology.config.app.memory)),
        "VOLUMES": _volume_words(mounts),
    }


def _volume_words(mounts: Sequence[Mount]) -> pulumi.Output[str]:
    """Return volumes as words for `docker run --volume`."""
    modes = [(mount.path, ":ro" if mount.read_only else "") for mount in mounts]

    def words(names: Sequence[str]) -> str:
        pairs = zip(names, modes, strict=True)
        return " ".join(f"{name}:{path}{mode}" if name else path for name, (path, mode) in pairs)

    return pulumi.Output.all(*(mount.volume or "" for mount in mounts)).apply(words)


__all__ = ["TASK_LOCK", "task"]
