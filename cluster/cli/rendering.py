"""`cluster render`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.config import Platform
from cluster.console import tell
from cluster.errors import CommandError
from cluster.render.nginx import NginxConfig, Version, render_nginx
from cluster.topology import build_topology

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.stack.opened import Stack
    from cluster.topology import Topology


#: What is rendered for where the nginx that will run it is not known.
NEW_NGINX: Version = (1, 30, 0)


def run_render(stack: Stack, *, diagram: bool, output: Path | None) -> None:
    """Print or write what the stack file gives."""
    topology = build_topology(stack.config)
    if diagram:
        from cluster.render.diagram import render_diagram  # noqa: PLC0415 - only here

        text = render_diagram(topology, stack.name)
        if output is None:
            tell(text)
        else:
            output.mkdir(parents=True, exist_ok=True)
            (output / "cluster.svg").write_text(text, encoding="utf-8")
        return
    config = _config(stack, topology)
    for path, text in config.files.items():
        if output is None:
            tell(f"# {path}\n{text}")
        else:
            (output / path).parent.mkdir(parents=True, exist_ok=True)
            (output / path).write_text(text, encoding="utf-8")


def _config(stack: Stack, topology: Topology) -> NginxConfig:
    """Return the configuration as `up` would put it in place; for a new nginx where there is none here."""
    from cluster.local.nginx import NginxError  # noqa: PLC0415 - only here

    if stack.config.platform is Platform.DOCKER:
        from cluster.docker.places import nginx_config  # noqa: PLC0415 - only here

        return nginx_config(topology)
    from cluster.cli.local import opened, paths  # noqa: PLC0415 - only here

    try:
        return opened(stack).nginx_config()
    except (NginxError, CommandError):
        return render_nginx(topology, paths(stack).nginx_places(None), NEW_NGINX)
