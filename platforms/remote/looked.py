"""What a host was seen to hold: of the machine, and of a stack on it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.lint import Facts
from cluster.render.versions import DISTRIBUTIONS, OLDEST
from cluster_runtime.status import STARTING
from platforms.pulumi.live import Live
from platforms.remote.host.places import THERE, Places
from platforms.remote.ssh import LOOK_SECONDS, HostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from cluster.config.hosts import Host
    from cluster.render.nginx import NginxConfig
    from cluster.render.versions import Version
    from platforms.remote.ssh import Ssh

#: Bytes that a release and its environment may need.
ROOM = 500 * 1024**2

#: What a stack may be called on a host: it is a part of its user's name, which has 32 characters at most.
NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A host as it was found. machine, stack: as `host.look` says them; stack None: it was never here."""

    host: str
    places: Places
    machine: Mapping[str, Any]
    stack: Mapping[str, Any] | None

    @property
    def nginx(self) -> Version:
        """The version of its nginx, or of the one that its distribution has."""
        found = self.machine["nginx"]
        if found is not None:
            return (int(found[0]), int(found[1]), int(found[2]))
        return DISTRIBUTIONS.get(str(self.machine["codename"]), OLDEST)

    @property
    def live(self) -> Live:
        """What nginx and the instances really run."""
        stack = self.stack
        if stack is None:
            return Live()
        instances: Mapping[str, Any] = stack["instances"]
        return Live(
            nginx=stack["nginx"],
            nginx_generation=stack["nginx_turn"],
            holders={name: one["holder"] for name, one in instances.items()},
            generations={name: one["turn"] for name, one in instances.items()},
            given={name: one["given"] for name, one in instances.items()},
            answers={name: one["answers"] for name, one in instances.items()},
            statuses={
                (name, process): said for name, one in instances.items() for process, said in one["said"].items()
            },
            static=stack["static"],
            static_generation=stack["static_turn"],
        )

    @property
    def releases(self) -> Sequence[str]:
        """The releases that are there, the latest last."""
        found: Sequence[str] = (self.stack or {}).get("releases", ())
        return found

    @property
    def environments(self) -> Sequence[str]:
        """The environments of packages that are there."""
        found: Sequence[str] = (self.stack or {}).get("environments", ())
        return found

    @property
    def units(self) -> Mapping[str, Mapping[str, Any]]:
        """What systemd says of the stack's units, by their names."""
        found: Mapping[str, Mapping[str, Any]] = (self.stack or {}).get("units", {})
        return found

    def has_files(self, texts: Mapping[str, str]) -> bool:
        """Tell whether systemd is told what it should be; texts: of the units and of the directories."""
        found = (self.stack or {}).get("files", {})
        return all(found.get(name) == hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items())

    def has_site(self, rendered: NginxConfig) -> bool:
        """Tell whether nginx runs a configuration, and would run it again."""
        stack = self.stack or {}
        files = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in rendered.files.items()}
        links = {path: os.path.normpath(target) for path, target in rendered.links.items()}
        there = stack.get("site", {})
        return stack.get("nginx") == rendered.digest and all(
            there.get(path) == found for path, found in {**files, **links}.items()
        )

    def run(self, instances: Sequence[str], release: str) -> bool:
        """Tell whether instances of a release run."""
        return self.are_active(self.places.unit_of(name, release) for name in instances)

    def are_active(self, units: Iterable[str]) -> bool:
        """Tell whether units run."""
        return all(self.units.get(unit, {}).get("state") == "active" for unit in units)

    def has_daemons(self, units: Mapping[str, str]) -> bool:
        """Tell whether programs of the distribution's run, started by these units; units: their texts by name."""
        found = (self.stack or {}).get("daemons", {})
        return all(
            found.get(name) == {"state": "active", "unit": digest, "started": digest}
            for name, text in units.items()
            for digest in [hashlib.sha256(text.encode()).hexdigest()]
        )

    def hold_names(self, instances: Sequence[str], release: str) -> bool:
        """Tell whether instances of a release hold their names, or will: one that is starting again takes its own."""
        live = self.live
        return all(
            live.holders.get(name) == release
            or (
                live.holders.get(name) is None
                and live.given.get(name) == release
                and live.statuses.get((name, release), {}).get("state") == STARTING
            )
            for name in instances
        )

    def runs_only(self, wanted: set[str], daemons: set[str]) -> bool:
        """Tell whether units run, are those that a boot starts, and no other is there; nor another of daemons."""
        if set((self.stack or {}).get("daemons", {})) != daemons:
            return False
        there = {unit for unit, said in self.units.items() if said["state"] in THERE or said.get("enabled")}
        enabled = {unit for unit, said in self.units.items() if said.get("enabled")}
        return there == enabled == wanted

    def turn(self, step: str, *, done: bool) -> str:
        """Return the turn of a step: the last one where what it does is so, else one that was never before.

        It is an input of the step, so that it is done again wherever it is undone, even if the state believes it done.
        """
        last = (self.stack or {}).get("turns", {}).get(step, 0)
        return str(last if done and last else int(time.time()))

    def problems(self) -> list[str]:
        """Return why nothing can run on it, a line each."""
        machine = self.machine
        found = []
        if not machine["systemd"]:
            found.append("systemd does not run there")
        if machine["distribution"] not in ("debian", "ubuntu"):
            found.append(f"its distribution is {machine['distribution'] or 'unknown'}: Debian or Ubuntu is needed")
        if machine["nginx"] is not None and self.nginx < OLDEST:
            found.append(f"its nginx is {'.'.join(map(str, self.nginx))}: {'.'.join(map(str, OLDEST))} is needed")
        return [f"hosts: {self.host}: {line}" for line in found]

    def check_room(self) -> None:
        """Refuse to send a release where there may be no room for it; HostError says how much there is."""
        free = self.machine["free"]
        if free < ROOM:
            raise HostError(
                f"hosts: {self.host}: {free // 1024**2} MB are free in {self.machine['fullest']}: "
                f"{ROOM // 1024**2} MB are needed for a release"
            )


def look(ssh: Ssh, host: Host) -> Looked:
    """Look at a host; HostError where it can't be reached or can't be what it is to be."""
    found = json.loads(ssh.run(host.name, "look", seconds=LOOK_SECONDS))
    looked = Looked(host=host.name, places=Places(ssh.stack), machine=found["machine"], stack=found["stack"])
    problems = looked.problems()
    if problems:
        raise HostError("\n".join(problems))
    return looked


def check_name(name: str) -> None:
    """Refuse a stack that can't be called so on a host; HostError says why."""
    if NAME.fullmatch(name) is None:
        raise HostError(
            f"stack {name}: on a host its user is called after it: lower-case letters, digits and -, beginning with a "
            "letter, 24 at most"
        )


def facts_of(root: Path, stack: str, secrets: frozenset[str], looked: Looked | None) -> Facts:
    """Return what the lints may look at of a stack on hosts."""
    return Facts(
        root=root,
        nginx=None if looked is None else looked.nginx,
        secrets=secrets,
        privileged=True,
        stack=stack,
        now=dt.datetime.now(dt.UTC),
    )


def said_of_sessions(ssh: Ssh, host: str) -> dict[str, Any] | None:
    """Return what an instance says of the session store; None where none says it."""
    try:
        found: dict[str, Any] = json.loads(ssh.run(host, "ask", "/-/probe/sessions"))
    except (HostError, ValueError):
        return None
    return found
