"""The text of a new stack file."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.initial.choices import Written
    from cluster.initial.offer import Offer
    from cluster.initial.project import Project


def render_stack_file(  # noqa: PLR0913, PLR0917 - what it is written of
    project: Project, written: Written, directory: str, port: int, stack: str, offer: Offer
) -> str:
    """Return the text of a commented stack file.

    directory: the project's, from the repository's root.
    """
    where = directory if directory.startswith((".", "/")) else f"./{directory}"
    environment = f"    environment: {_quoted(project.said)}".ljust(34)
    replace = "\n    replace: true                # the project has an engine of its own" if written.replace else ""
    return f"""\
# Stack {stack}: all keys, with defaults and ranges, are in docs/stack-file.md. `cluster up {stack}` applies this file.
config:
  cluster:platform: {offer.platform}

  cluster:app:
    project: {_quoted(where)}
    settings: {_quoted(project.settings)}
    requirements: {_quoted(_requirements(project, written))}
{_of_app(project, written)}{environment} # plain values; secret ones: {offer.secret_environment}

  cluster:upstream:
    servers: 4                     # or a list: - {{name: app1, weight: 3, max_fails: 2, backup: true, down: true}}

  cluster:sessions:
    engine: {written.engine}{replace}

{_database(written)}
  cluster:site:
    server_names: [localhost, 127.0.0.1]
    listen: {port}
    static_url: {written.static or "null"}
{_images(offer)}{offer.more}"""


def _quoted(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).splitlines()[0]


def _requirements(project: Project, written: Written) -> object:
    chosen = {"extras": written.extras, "groups": written.groups}
    more = {name: names for name, names in chosen.items() if names}
    return {"file": project.requirements, **more} if more else project.requirements


def _of_app(project: Project, written: Written) -> str:
    """Return the lines of the app that only some projects need."""
    python = f'    python: "{project.python}"\n' if project.python else ""
    interface = "    interface: asgi\n" if written.interface == "asgi" else ""
    media = f"    media: {_quoted(dict(zip(('root', 'url'), written.media, strict=True)))}\n" if written.media else ""
    shared = f"    shared: {_quoted(written.shared)}\n" if written.shared else ""
    commands = f"    release_commands: {_quoted(written.commands)}\n" if written.commands else ""
    return python + interface + media + shared + commands


def _database(written: Written) -> str:
    if not written.database:
        return "  # cluster:database: {engine: sqlite}   # left out: the project's own DATABASES\n"
    made = "made by the cluster; external: the URL in the secret database_url"
    return f"  cluster:database: {{engine: {written.database}}}     # {made}\n"


def _images(offer: Offer) -> str:
    if not offer.nginx_image:
        return ""
    nginx = f"    nginx: {offer.nginx_image}              # base images; default: debian:trixie-slim\n"
    return f"\n  cluster:images:\n{nginx}"


def kept_secrets(path: Path) -> str:
    """Return a stack file's lines with Pulumi's secrets, and with what they are read by: nothing replaces them."""
    if not path.exists():
        return ""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return ""  # no command has read it either
    if not isinstance(found, dict):
        return ""
    config = found.pop("config", None)
    values = config if isinstance(config, dict) else {}
    inside = {
        key: value
        for key, value in values.items()
        if (isinstance(value, dict) and "secure" in value) or not str(key).startswith("cluster:")
    }
    lines = textwrap.indent(yaml.safe_dump(inside, sort_keys=False), "  ") if inside else ""
    return lines + (yaml.safe_dump(found, sort_keys=False) if found else "")
