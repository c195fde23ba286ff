"""What of a stack on a host was changed by hand, or is broken: what was found there beside what Pulumi's state has."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from platforms.pulumi.progress import COMMAND, NGINX_CONFIG
from platforms.remote.host.setting_up import SERVICE
from platforms.remote.renewing import LASTING, variable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from platforms.pulumi.preview import Preview
    from platforms.remote.host.paths import HostPaths
    from platforms.remote.looked import Looked
    from platforms.remote.told import Hosted

#: What the command is called that lets a host's nginx do something for other hosts.
RELAYS = "relays"

#: And those that make a database or a broker there, and that start what keeps the certificate by ACME.
POSTGRES, BROKER, RENEWER = "postgres", "broker", "renewer"

#: And the one that lets it hold the site's address in turn with others.
ADDRESS = "address"


def drift(hosted: Hosted, preview: Preview) -> tuple[str, ...]:
    """Return it in words, by name; nothing where the stack was never up there."""
    looked, believed, told = hosted.looked, preview.before, Told(preview, hosted.looked.host)
    release = believed.get("release")
    if not release or not told.has("host"):
        return ()
    if looked.stack is None:
        return (f"{looked.host} has nothing of the stack: it is another machine, or was emptied",)
    servers = {str(one.get("name")) for one in believed.get("upstream") or ()}
    placed = [name for name in hosted.instances if name in servers]
    return (
        *_of_nginx(hosted, told),
        *_of_instances(looked, placed, str(release)),
        *_of_strays(hosted, str(release)),
        *(_of_secrets(looked, str(release)) if placed else ()),
        *_of_daemons(looked),
        *(_of_database(looked) if told.has(POSTGRES) else ()),
        *(_of_broker(looked) if told.has(BROKER) else ()),
        *(_of_renewer(looked, told.environment(RENEWER)) if told.has(RENEWER) else ()),
        *(_of_address(looked) if told.has(ADDRESS) else ()),
        *_of_systemd(looked, told.stdin("host")),
    )


class Told:
    """What a host was told the last time, by the state."""

    def __init__(self, preview: Preview, host: str) -> None:
        self.steps = {
            step.part.removeprefix(f"{host}-"): step.old
            for step in preview.all
            if step.kind == COMMAND and step.part.startswith(f"{host}-") and step.old
        }

    def has(self, name: str) -> bool:
        """Tell whether it was told anything of that name."""
        return name in self.steps

    def environment(self, name: str) -> Mapping[str, Any]:
        """Return the environment of the command of that name."""
        found: Mapping[str, Any] = self.steps.get(name, {}).get("environment") or {}
        return found

    def stdin(self, name: str) -> dict[str, Any]:
        """Return what the command of that name read; empty where the state does not say it in plain."""
        try:
            found = json.loads(self.steps.get(name, {}).get("stdin") or "{}")
        except (TypeError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _of_nginx(hosted: Hosted, told: Told) -> Iterator[str]:
    looked, stack = hosted.looked, hosted.looked.stack or {}
    if not (told.has(RELAYS) or told.has(NGINX_CONFIG)):
        return
    if not stack["nginx_runs"]:
        yield f"nginx on {looked.host} is stopped"
    elif told.has(RELAYS) and not stack["relay"]["runs"]:
        yield f"nginx on {looked.host} does not do for other hosts what it should"
    if not told.has(NGINX_CONFIG):
        return
    believed = told.environment(NGINX_CONFIG).get("DIGEST")
    if stack["nginx_runs"] and looked.live.nginx is None:
        yield f"nginx on {looked.host} does not serve the site"
    elif looked.live.nginx is not None and believed and looked.live.nginx != believed:
        yield f"nginx on {looked.host} runs another configuration than the one that was put in place last"
    files, links = _site(hosted, told.stdin(NGINX_CONFIG))
    wanted = {path: _digest(text) for path, text in files.items()}
    wanted |= {path: os.path.normpath(target) for path, target in links.items()}
    for path, digest in wanted.items():
        found = stack["site"].get(path)
        if found != digest:
            yield f"{path} {'was edited' if found else 'is gone'}"


def _site(hosted: Hosted, delivered: Mapping[str, Any]) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return the files of the site that were put in place, and the links; what is told in secret is rendered again."""
    rendered = hosted.rendered
    if not delivered and rendered is not None and rendered.digest == hosted.looked.live.nginx:
        return rendered.files, rendered.links
    return delivered.get("files", {}), delivered.get("links", {})


def _of_instances(looked: Looked, names: Sequence[str], release: str) -> Iterator[str]:
    live, places = looked.live, looked.places
    for name in names:
        unit, held = places.unit_of(name, release), live.holders.get(name)
        if not looked.are_active([unit]):
            state = looked.units.get(unit, {}).get("state", "not there")
            yield f"{name} is stopped: {unit} is {state}"
        elif held is None:
            yield f"{name} holds no name: nothing serves there"
        elif not looked.units[unit].get("enabled"):
            yield f"{name} is not started at boot"
        if held is not None and held != release:
            yield f"{name} serves release {held}, and not {release}"
    if live.static and live.static != release:
        yield f"the static files of release {live.static} are served, and not those of {release}"


def _of_strays(hosted: Hosted, release: str) -> Iterator[str]:
    for _name, there, unit in hosted.processes():
        if there.partition(".")[0] != release:
            yield f"{unit} is of no state: a killed run left it"


def _of_secrets(looked: Looked, release: str) -> Iterator[str]:
    if looked.lacks_secrets(release):
        yield f"the secrets of release {release} on {looked.host} are gone, or somebody else can read them"


def _of_daemons(looked: Looked) -> Iterator[str]:
    for unit, said in (looked.stack or {}).get("daemons", {}).items():
        if said["state"] != "active":
            yield f"{unit} is {said['state'] or 'not there'}"
        elif said["unit"] != said["started"]:
            yield f"{unit} was edited"


def _of_database(looked: Looked) -> Iterator[str]:
    found = (looked.stack or {}).get("database")
    if found is None or not found["active"]:
        yield f"PostgreSQL on {looked.host} {'is gone' if found is None else 'is stopped'}"
    elif not found["safe"]:
        yield f"everybody on its network gets to the port of PostgreSQL on {looked.host}"


def _of_broker(looked: Looked) -> Iterator[str]:
    found, unit = (looked.stack or {}).get("broker"), looked.places.daemon("broker").name
    if found is None or unit not in (looked.stack or {}).get("daemons", {}):
        yield f"the broker on {looked.host} is gone"
    elif not found["safe"]:
        yield f"everybody on its network gets to the port of the broker on {looked.host}"
    elif not found["whole"]:
        yield f"the broker's certificate, key or users on {looked.host} were edited, or are gone"


def _of_renewer(looked: Looked, believed: Mapping[str, Any]) -> Iterator[str]:
    found = looked.renewal
    for name, path in looked.places.renewer_units.items():
        digest = found.get("units", {}).get(name)
        if digest is None or digest != believed.get(variable(name), digest):
            yield f"{path} {'was edited' if digest else 'is gone'}"
        elif name in LASTING and name not in found.get("active", ()):
            yield f"{path.name} is stopped"
        elif name in LASTING and name not in found.get("enabled", ()):
            yield f"{path.name} is not started at boot"


def _of_address(looked: Looked) -> Iterator[str]:
    found, unit = looked.address, looked.places.address_unit.name
    if found is None or not found["active"]:
        yield f"{unit} on {looked.host} {'is gone' if found is None else 'is stopped'}"
    elif not found["enabled"]:
        yield f"{unit} on {looked.host} is not started at boot"
    for path in (found or {}).get("edited", ()):
        yield f"{path} on {looked.host} was edited"


def _of_systemd(looked: Looked, delivered: Mapping[str, Any]) -> Iterator[str]:
    found = (looked.stack or {}).get("files", {})
    for name, text in delivered.items():
        path = _path(looked.places, name)
        if path and found.get(name) != _digest(text):
            yield f"{path} {'was edited' if found.get(name) else 'is gone'}"


def _path(places: HostPaths, name: str) -> str:
    """Return the file of systemd's that a set-up calls so; empty for what is none."""
    if name.startswith(SERVICE):
        return str(places.template_of(name.removeprefix(SERVICE)))
    own = {"unit": places.unit, "nginx_unit": places.nginx_unit, "tmpfiles": places.tmpfiles}
    return str({**own, "authority": places.authority}.get(name, ""))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
