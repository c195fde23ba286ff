"""`cluster render`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.console import tell
from cluster.topology import build_topology

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.stack.opened import Stack
    from platforms.base import Platform


def run_render(stack: Stack, platform: Platform, *, diagram: bool, output: Path | None) -> None:
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
    config = platform.nginx_config()
    for path, text in config.files.items():
        if output is None:
            tell(f"# {path}\n{text}")
        else:
            (output / path).parent.mkdir(parents=True, exist_ok=True)
            (output / path).write_text(text, encoding="utf-8")
