"""`cluster render`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.cli.context import Stack, tell
from cluster.render.nginx import render_nginx
from cluster.topology import build_topology

if TYPE_CHECKING:
    from pathlib import Path


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
    from cluster.local.nginx import NginxError, find_nginx  # noqa: PLC0415

    try:
        version = find_nginx()[1]
    except NginxError:
        version = (1, 30, 0)  # what the configuration is like on a new one
    config = render_nginx(topology, stack.places.nginx_places(None), version)
    for path, text in config.files.items():
        if output is None:
            tell(f"# {path}\n{text}")
        else:
            (output / path).parent.mkdir(parents=True, exist_ok=True)
            (output / path).write_text(text, encoding="utf-8")
