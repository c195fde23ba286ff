"""The program with a part of the protocol of hosts switched off; imported before the real one runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.render import relay
from platforms.remote import filesystem, paths, program, ssh, units
from tests.local import saboteur
from tests.local.saboteur import broken_rendering

if TYPE_CHECKING:
    from cluster.render.directives import Directive

RELEASES, DAEMONS = "platforms/remote/host/releases.py", "platforms/remote/host/daemons.py"
SETTING_UP = "platforms/remote/host/setting_up.py"

TAKEN = """\
    from cluster_runtime.instance_link import InstanceLink
    for name in instances:
        InstanceLink(places.sockets, name).take(release)
    for name, turn in ():
"""

KILLED = """\
    for one in units_there(places) - {places.unit_of(name, release) for name in instances}:
        output("systemctl", "kill", "--signal=KILL", one)
        output("systemctl", "stop", one)
    for name, turn in zip(instances, turns, strict=True):
"""

NOT_AWAITED = """\
def _await_filled(places: HostPaths, name: str) -> None:
    return
"""


def _edited(*edits: tuple[str, str], of: str = RELEASES) -> None:
    """Let other text of a host's commands be sent."""
    original = ssh.host_files

    def files() -> dict[str, bytes]:
        found = original()
        text = found[of].decode()
        for old, new in edits:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        return {**found, of: text.encode()}

    ssh.host_files = files


def no_health_gate() -> None:
    """Names are taken as soon as the units were started, and no instance proves the release."""
    _edited(
        ('output("systemctl", "start", *units', 'output("systemctl", "start", "--no-block", *units'),
        ("    sys.stdout.write(done.stdout)\n", "    return\n"),
        (
            "    for name, turn in zip(instances, turns, strict=True):\n",
            TAKEN,
        ),
    )


def no_drain() -> None:
    """The old release is killed before the new one has the names."""
    _edited(
        (
            "    for name, turn in zip(instances, turns, strict=True):\n",
            KILLED,
        )
    )


def no_retry() -> None:
    """nginx tries no other instance, neither of its own host nor behind another."""
    saboteur.no_retry()
    original = vars(relay)["d"]

    def once(directive: str, *args: str | int) -> Directive:
        found: Directive = original(directive, *(["off"] if directive == "proxy_next_upstream" else args))
        return found

    vars(relay)["d"] = once


def no_waiting() -> None:
    """A memcached node is started again as soon as the former one listens."""
    _edited(("def _await_filled(places: HostPaths, name: str) -> None:\n", NOT_AWAITED), of=DAEMONS)


def no_proof() -> None:
    """Nobody asks whether hosts share the filesystem that they are said to."""
    vars(filesystem)["unproven"] = vars(filesystem)["problems"] = lambda *_arguments, **_options: []


def secrets_as_files() -> None:
    """Releases read their secrets as files of their own user, and no unit is given any: as it was once."""
    _edited(
        ("    credentials.write(places, release, json.loads(secrets))\n", ""),
        ("    credentials.give(places, units.values())\n", ""),
        ("if given else []", "if False else []"),
    )
    _edited(
        ("        credentials.check(places)\n", "        pass\n"),
        ("        credentials.give(places, units_there(places) | places.enabled())\n", ""),
        of=SETTING_UP,
    )
    vars(units)["loaded"] = lambda _directory: "#"
    original = vars(paths)["RuntimePaths"]

    def of_files(**more: Any) -> Any:
        release = Path(more["packages"]).parent
        directory = Path(f"/var/lib/cluster-{release.parent.parent.name}/secrets")
        return original(**{**more, "secrets": str(directory / release.name)})

    vars(paths)["RuntimePaths"] = of_files


def key_in_one_step() -> None:
    """Hosts are told of another key whatever they believe."""
    vars(program)["disbelieved"] = lambda *_anything: None


def no_appendonly() -> None:
    """The broker keeps what it has in memory alone."""
    saboteur.no_appendonly()


__all__ = [
    "broken_rendering",
    "key_in_one_step",
    "no_appendonly",
    "no_drain",
    "no_health_gate",
    "no_proof",
    "no_retry",
    "no_waiting",
    "secrets_as_files",
]
