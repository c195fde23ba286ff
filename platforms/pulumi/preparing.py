"""What a Pulumi platform says to the task that prepares a release (cluster_runtime.prepare)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.render.mime import compressed_endings

if TYPE_CHECKING:
    from cluster.topology import Topology


def release_words(topology: Topology, *, lock: str, sockets: str) -> list[str]:
    """Return the words of the task; lock: held while it runs. sockets: the directory of what serves."""
    app = topology.config.app
    return [
        *("--lock", lock, "release", "--instance", topology.names[0], "--sockets", sockets),
        *("--compress", ",".join(compressed_endings())),
        *([] if app.collectstatic else ["--no-collect"]),
        *([] if app.migrate else ["--no-migrate"]),
        *(["--migrate", ",".join(app.migrate)] if isinstance(app.migrate, list) else []),
    ]
