"""Who of the network gets to a port of the stack's: rules of the kernel's, beside which all others stay."""

from __future__ import annotations

import shutil
import socket
from typing import TYPE_CHECKING

from platforms.remote.host.installing import install
from platforms.remote.host.running import HostError, output, put, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from platforms.remote.host.paths import Guard

#: Seconds that a connection may take where somebody is to be let in, or kept out.
REACHED_WITHIN = 3.0


def guard(there: Guard, port: int, admitted: Sequence[str]) -> None:
    """Let nobody of the network get to a port but these addresses, from the first moment of a boot."""
    if shutil.which("nft") is None:
        install("nftables")
    changed = put(there.rules, _rules(there.table, port, admitted))
    changed |= put(there.unit, _unit(there))
    if changed:
        run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--quiet", there.unit.name)
    if changed or not holds(there):
        run("systemctl", "restart", there.unit.name, problem=f"the port of {there.what} can't be guarded")


def _rules(name: str, port: int, admitted: Sequence[str]) -> str:
    """Return nft's rules. They replace those of before at once: there is no moment without them."""
    table = f"inet {name}"
    four = ", ".join(address for address in admitted if ":" not in address)
    six = ", ".join(address for address in admitted if ":" in address)
    return "\n".join(
        [
            f"table {table}",
            f"delete table {table}",
            f"table {table} {{",
            "    chain input {",
            "        type filter hook input priority -10; policy accept;",
            f"        tcp dport != {port} accept",
            '        iifname "lo" accept',
            *([f"        ip saddr {{ {four} }} accept"] if four else []),
            *([f"        ip6 saddr {{ {six} }} accept"] if six else []),
            "        reject with tcp reset",
            "    }",
            "}",
            "",
        ]
    )


def _unit(there: Guard) -> str:
    return "\n".join(
        [
            "# Made by django-cluster.",
            "[Unit]",
            f"Description=Who gets to {there.what} of the Django cluster {there.stack}",
            "DefaultDependencies=no",
            "Before=network-pre.target shutdown.target",
            "Wants=network-pre.target",
            "Conflicts=shutdown.target",
            "After=local-fs.target nftables.service",
            # A start, a restart and a reload of the distribution's rules take all others away.
            "PartOf=nftables.service",
            "ReloadPropagatedFrom=nftables.service",
            "",
            "[Service]",
            "Type=oneshot",
            "RemainAfterExit=yes",
            f"ExecStart=/usr/sbin/nft -f {there.rules}",
            f"ExecReload=/usr/sbin/nft -f {there.rules}",
            "",
            "[Install]",
            "WantedBy=sysinit.target nftables.service",
            "",
        ]
    )


def holds(there: Guard) -> bool:
    """Tell whether the kernel has the rules."""
    if shutil.which("nft") is None:
        return False
    done = output("nft", "list", "table", "inet", there.table)
    return done.returncode == 0 and "reject" in done.stdout  # a flush leaves the table, and nothing in it


def unguard(there: Guard) -> None:
    """Take the rules away."""
    if there.unit.exists():
        output("systemctl", "disable", "--now", "--quiet", there.unit.name)
        there.unit.unlink()
        there.rules.unlink(missing_ok=True)
        output("nft", "delete", "table", "inet", there.table)


def check_port(port: int, key: str) -> None:
    """Refuse a port that somebody else has; HostError names the stack file's key."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
        except OSError as error:
            raise HostError(f"port {port} is taken: say another one in {key} ({error.strerror})") from None


def reaches(address: str, port: int) -> bool:
    """Tell whether something takes a connection."""
    try:
        with socket.create_connection((address, port), timeout=REACHED_WITHIN):
            return True
    except OSError:
        return False
