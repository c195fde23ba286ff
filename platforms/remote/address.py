"""Which hosts hold the site's address in turn, and what each of them is told: a keepalived of the stack's own.

Source of the unit: systemd.exec(5), systemd.service(5).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.placement import place
from cluster.tls.certificates import address
from platforms.remote import host as commands
from platforms.remote.host.address import digest
from platforms.remote.host.site import CLOSING
from platforms.remote.looked import digests
from platforms.remote.units import SANDBOX, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cluster.topology import Topology
    from platforms.remote.host.paths import HostPaths
    from platforms.remote.looked import Looked, Seen

#: The numbers of VRRP's instances, and the highest priority of a host that may have to give the address to another.
ROUTERS, HIGHEST = range(1, 256), 254

#: By how much priorities of hosts differ, where there are few: a host waits the longer the lower its own is, so that
#: of two one is first.
APART, ALL_APART = 50, 200

#: Seconds that keepalived has to end, after clients' connections were closed response by response.
GRACE = 15

#: In the place of lines of the sandbox: it gives the host an address, tells the network by packets of its own making,
#: and lets nginx's user ask nginx.
_OTHERWISE = {
    "CapabilityBoundingSet=": "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_SETUID CAP_SETGID CAP_KILL",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6": (
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET"
    ),
    "SystemCallFilter=@chown setpriority": "SystemCallFilter=@setuid",
    "UMask=0027": "UMask=0077",
}


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What a host is told that holds the site's address in turn with others; wanted: as `host.address.hold` has it."""

    wanted: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """What tells it from another one."""
        return digest(self.wanted)

    def is_done(self, looked: Looked) -> bool:
        """Tell whether a host was found so."""
        found = looked.address
        return bool(
            found
            and found["digest"] == self.digest
            and found["active"]
            and found["enabled"]
            and not found["edited"]
            and not self.starts(looked)
        )

    def starts(self, looked: Looked) -> bool:
        """Tell whether keepalived is started anew there: a host that holds the address gives it up before."""
        found = looked.address
        return not found or not found["active"] or found["unit"] != digests({"unit": self.wanted["unit"]})["unit"]


def shared(topology: Topology, places: HostPaths, seen: Seen) -> dict[str, Shared]:
    """Return what each host is told that is to hold the site's address in turn, by its name, in the order of telling.

    First those that hear each other already, of these last the one that holds it, so that it moves once at most; then
    the others, which would take it where they hear nobody. Nothing where each host is visited by its own address.
    """
    config, holders = topology.config, place(topology).nginx
    if not config.site.address:
        return {}
    router, between = router_of(places.name, (seen.each[name] for name in holders)), config.host(holders[0]).between
    addresses = sorted(config.site.address, key=lambda one: (":" in one) != (":" in between))
    apart = max(1, min(APART, ALL_APART // len(holders)))
    found = {
        name: Shared(
            wanted={
                "addresses": addresses,
                "own": _plain(config.host(name).between),
                "peers": [_plain(config.host(one).between) for one in holders if one != name],
                "priority": max(1, HIGHEST - number * apart),
                "router": router,
                "interface": config.host(name).interface,
                "unit": unit(places, addresses),
                "answers": answers(),
            }
        )
        for number, name in enumerate(holders)
    }
    return {name: found[name] for name in sorted(found, key=lambda name: _turn(seen.each[name]))}


def _plain(between: str) -> str:
    """Return an address in the one way in which it is written."""
    found = address(between)
    return between if found is None else str(found)


def _turn(looked: Looked) -> int:
    found = looked.address
    return 2 if not found or not found["active"] else 1 if found["held"] else 0


def router_of(name: str, hosts: Iterable[Looked]) -> int:
    """Return the number that tells the stack's address from others of these hosts: it keeps the one that it has."""
    looked = list(hosts)
    taken = {int(number) for one in looked for number in one.machine.get("routers", {})}
    own = sorted({int(one.address["router"]) for one in looked if one.address and one.address["router"] in ROUTERS})
    first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % len(ROUTERS)
    others = (*ROUTERS[first:], *ROUTERS[:first])
    wanted: list[int] = [one for one in (*own, *others) if one not in taken]
    return next(iter(wanted), others[0])


def holders(seen: Seen) -> list[str]:
    """Return the hosts that were found to hold an address of the site's."""
    return [name for name, looked in seen.each.items() if looked.address and looked.address["held"]]


def answers() -> str:
    """Return the program by which keepalived asks whether nginx answers."""
    return (Path(commands.__file__).parent / "answers.py").read_text(encoding="utf-8")


def _cut(held: str) -> tuple[str, str]:
    """Return what lets nobody in by an address that this host still has, and then cuts who is there."""
    family, source = ("-6", f'"[{held}]"') if ":" in held else ("-4", held)
    leave = f"ip {family} route del local {held} table local"
    return leave, f"ss --tcp --kill state connected src {source} >/dev/null"


def unit(places: HostPaths, held: Sequence[str]) -> str:
    """Return the unit of keepalived. held: the addresses that it gives up when it is stopped.

    A boot stops it before nginx, and starts it after that. Where this host holds the address when it is stopped,
    responses end their connections before (nginx before 1.27.4), so that few are there when the address goes. Who has
    one of these is told that it is cut: once the address is gone nobody can tell. Who comes then gets no answer from
    this host, and asks the next one a second later.
    """
    name = places.address_unit.name.removesuffix(".service")
    own = f"/run/{name}"
    first = f"ip -o address show to {held[0]} | grep -q . || exit 0; touch {places.closing}; sleep {CLOSING:g}"
    closes = "; ".join([first, *(command for one in held for command in _cut(one)), "kill $MAINPID"])
    words = f"--dont-fork --vrrp --use-file={places.address}/keepalived.conf"
    return "\n".join(
        [
            "# Made by django-cluster: what is changed here is put back by the next `cluster up`.",
            "[Unit]",
            f"Description=The address of the Django cluster {places.stack}",
            "After=network-online.target nginx.service",
            "Wants=network-online.target",
            "StartLimitIntervalSec=0",
            "",
            "[Service]",
            f"ExecStart=/usr/sbin/keepalived {words} --pid={own}/keepalived.pid --vrrp_pid={own}/vrrp.pid",
            "ExecReload=/bin/kill -HUP $MAINPID",
            f"ExecStop=-/bin/sh -c {quoted(closes)}",
            f"ExecStopPost=-/bin/rm -f {places.closing}",
            "Restart=always",
            "RestartSec=1",
            f"TimeoutStopSec={GRACE}",
            "KillMode=mixed",
            f"RuntimeDirectory={name}",
            f"ReadWritePaths=-{places.nginx_run}",
            "# One that waits for a processor is taken for a dead one.",
            "CPUWeight=1000",
            "MemoryMax=128M",
            "TasksMax=32",
            "# sandbox",
            *(_OTHERWISE.get(line, line) for line in SANDBOX),
            "MemoryDenyWriteExecute=yes",
            "# end",
            "",
            "[Install]",
            "WantedBy=multi-user.target",
            "",
        ]
    )
