"""The program with a part of the protocol of hosts switched off; imported before the real one runs."""

from __future__ import annotations

from platforms.remote import ssh
from tests.local.saboteur import broken_rendering, no_retry

RELEASES = "platforms/remote/host/releases.py"

TAKEN = """\
    from cluster_runtime.instance_link import InstanceLink
    for name in instances:
        InstanceLink(places.sockets, name).take(release)
    for name, turn in ():
"""

KILLED = """\
    for one in _running(places):
        if _is_former(one, instances, release):
            output("systemctl", "kill", "--signal=KILL", f"{places.name}@{one}.service")
            output("systemctl", "stop", f"{places.name}@{one}.service")
    for name, turn in zip(instances, turns, strict=True):
"""


def _edited(*edits: tuple[str, str]) -> None:
    """Let other text of a host's commands be sent."""
    original = ssh._files

    def files() -> dict[str, bytes]:
        found = original()
        text = found[RELEASES].decode()
        for old, new in edits:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        return {**found, RELEASES: text.encode()}

    ssh._files = files


def no_health_gate() -> None:
    """Names are taken as soon as the units were started, and no instance proves the release."""
    _edited(
        ('done = output("systemctl", "start", *units)', 'done = output("systemctl", "start", "--no-block", *units)'),
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


__all__ = ["broken_rendering", "no_drain", "no_health_gate", "no_retry"]
