"""Runs commands on a stack's hosts, by `ssh` and one connection a host; nothing is left on a host that it needs.

Each command is the package `host` beside this file, sent in front of what the command is told: root's Python there
takes it from its standard input. `ssh` is told all by one file of the stack's own, so that no command line, and no
state, holds an address, a user or a key.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shlex
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config.hosts import Host
from cluster.errors import ClusterError
from cluster.release import RUNTIME
from cluster_runtime.instance_link import LONGEST_SOCKET_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cluster.config.hosts import Way

HOST = Path(__file__).resolve().parent / "host"

#: The runtime's modules that a host's commands use.
MODULES = (
    *("__init__", "gather", "instance_link", "secret_files", "static_files", "status", "unfollowed"),
    "untrusted_json",
)

#: Seconds that a host may take to answer a dial, and to say what there is.
DIAL_SECONDS, LOOK_SECONDS = 10, 18

#: The oldest Python that releases run on.
PYTHON = (3, 11)

CONFIG, KNOWN, AGENT, ON, FORMER = "config", "known_hosts", "agent", "on", "hosts.json"

#: Where the connections are kept that commands share; short, since a socket's path is.
CONNECTIONS = Path("~/.cache/django-cluster/ssh")

#: Characters of a connection's name there, and how many more ssh gives it while it opens it.
TAG_LENGTH, WHILE_IT_OPENS = 16, 17

#: What the host's Python runs: it reads the package from its standard input, and the rest is the command's.
_BEGIN = f"""
import sys
if sys.version_info < {PYTHON}:
    sys.exit("Python %d.%d is too old here: releases need {PYTHON[0]}.{PYTHON[1]}" % sys.version_info[:2])
import base64, os
f = os.memfd_create("host")
os.write(f, base64.b64decode(sys.stdin.buffer.readline()))
sys.path.insert(0, "/proc/self/fd/%d" % f)
from platforms.remote.host.__main__ import main
sys.exit(main(sys.argv[1:]))
""".strip()


#: What a host's shell runs, before a command's words.
#: The distribution's Python, which environments are of: what else is called python3 there may be anything.
_AS_ROOT = (
    'p=/usr/bin/python3; b=$1; shift; [ "$(id -u)" = 0 ] || exec sudo -n $p -I -c "$b" "$@"; exec $p -I -c "$b" "$@"'
)
_REMOTE = shlex.join(["sh", "-c", _AS_ROOT, "sh", _BEGIN])

#: What a step of a Pulumi program runs here: it is the same whatever is sent, so that no step is another one by that.
_ON = f"""#!/bin/sh
# on HOST WORD...: runs a command on a host, which gets standard input.
set -eu
here=$(dirname "$0")
host=$1
shift
words=
for word in "$@"; do
    words="$words '$(printf %s "$word" | sed "s/'/'\\\\\\\\''/g")'"
done
{{ cat "$here/{AGENT}"; cat; }} | ssh -F "$here/{CONFIG}" "$host" {shlex.quote(_REMOTE)}"$words"
"""


class HostError(ClusterError):
    """A host can't be reached, or can't do what it is asked for; the text names it."""


class AwayError(HostError):
    """Nothing answers where a host should be, or not in time."""


#: ssh's own status of a failure, and what it says then where a host did answer.
OF_SSH, ANSWERED = 255, ("Permission denied (", "Host key verification failed")


@dataclass(frozen=True)
class Ssh:
    """The way to a stack's hosts.

    root: the directory in which `ssh` runs, and from which its files' paths are. directory: of these files. stack: as
    the hosts know it.

    The way to a host that the stack file does not name any more is kept, on this machine alone: it is to be taken down.
    """

    root: Path
    directory: Path
    stack: str
    hosts: tuple[Host, ...]

    def write(self) -> None:
        """Write what `ssh` is told, and what is sent to the hosts."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        CONNECTIONS.expanduser().mkdir(mode=0o700, parents=True, exist_ok=True)
        every = (*self.hosts, *self.former())
        _put(self.directory / FORMER, json.dumps({host.name: host.model_dump(mode="json") for host in every}, indent=1))
        _put(self.directory / CONFIG, "".join(f"{line}\n" for line in self._config(every)))
        _put(self.directory / KNOWN, "".join(f"{line}\n" for line in self._known(every)))
        _put(self.directory / AGENT, f"{package()}\n")
        _put(self.directory / ON, _ON)

    @property
    def _relative(self) -> str:
        return self.relative(self.directory)

    def relative(self, path: Path) -> str:
        """Return a path as commands have it, which run in `root`: no state holds where that is."""
        return os.path.relpath(path, self.root)

    def former(self) -> tuple[Host, ...]:
        """Return the hosts that the stack file has named on this machine, and does not name any more."""
        try:
            kept = json.loads((self.directory / FORMER).read_text(encoding="utf-8"))
            hosts = [Host.model_validate(told) for told in kept.values()]
        except (OSError, ValueError, AttributeError):
            return ()  # what is there now is written again
        named = {host.name for host in self.hosts}
        return tuple(host for host in hosts if host.name not in named)

    def forget(self, name: str) -> None:
        """Know no way to a host any more that the stack file does not name."""
        left = [host for host in self.former() if host.name != name]
        _put(self.directory / FORMER, json.dumps({host.name: host.model_dump(mode="json") for host in left}, indent=1))
        self.write()

    def _config(self, hosts: Sequence[Host]) -> Iterator[str]:
        known = list(self._known(hosts))
        for host in hosts:
            yield from self._way(host.name, host, known)
            if host.jump is not None:
                yield f"  ProxyJump {host.name}-jump"
                yield from self._way(f"{host.name}-jump", host.jump, known)
        yield "Host *"
        yield f'  UserKnownHostsFile "{self.directory.absolute() / KNOWN}"'
        for line in (
            "GlobalKnownHostsFile none",
            "StrictHostKeyChecking yes",
            "UpdateHostKeys no",
            "BatchMode yes",
            "PasswordAuthentication no",
            f"ConnectTimeout {DIAL_SECONDS}",
            "ServerAliveInterval 5",
            "ServerAliveCountMax 3",
            "ControlMaster auto",
            "ControlPersist 30",
            "LogLevel ERROR",
        ):
            yield f"  {line}"

    def _way(self, name: str, way: Way, known: Sequence[str]) -> Iterator[str]:
        yield f"Host {name}"
        yield f"  HostName {way.address}"
        yield f"  Port {way.port}"
        yield f"  User {way.user}"
        yield f"  HostKeyAlias {name}"
        yield f"  ControlPath {self._connection(name, way, known)}"
        if way.identity_file is not None:
            path = way.identity_file
            yield f'  IdentityFile "{path if path.startswith("~") else (self.root / path).absolute()}"'
            yield "  IdentitiesOnly yes"

    def _connection(self, name: str, way: Way, known: Sequence[str]) -> str:
        """Return where the connection of a way is kept; `none` where the home directory's path leaves it no room.

        Another key is another connection: one that is open already is asked for none.
        """
        own = [line for line in known if line.startswith(f"{name} ")]
        told = "\n".join([name, *own, way.model_dump_json()])
        path = str(CONNECTIONS.expanduser() / hashlib.sha256(told.encode()).hexdigest()[:TAG_LENGTH])
        room = LONGEST_SOCKET_PATH - WHILE_IT_OPENS
        return f'"{path.replace("%", "%%")}"' if len(os.fsencode(path)) <= room else "none"

    @staticmethod
    def _known(hosts: Sequence[Host]) -> Iterator[str]:
        for host in hosts:
            yield f"{host.name} {host.host_key}"
            if host.jump is not None:
                yield f"{host.name}-jump {host.jump.host_key}"

    # --- commands

    def script(self, host: str, what: str, *words: str) -> str:
        """Return what `sh` runs here, in `root`, for a command; its standard input is passed on."""
        return shlex.join(["sh", f"{self._relative}/{ON}", host, what, self.stack, *words])

    def run(self, host: str, what: str, *words: str, told: str = "", seconds: float | None = None) -> str:
        """Run a command and return what it printed; HostError: it can't be done, AwayError: nothing answers."""
        return self._run(
            host, what, self.command(host, what, *words), input=f"{self.agent().decode('ascii')}{told}", timeout=seconds
        )

    def send(self, host: str, what: str, *words: str, sent: Path) -> str:
        """Run a command that is told a file, of which neither side ever holds the whole; as `run` otherwise."""
        with sent.open("rb") as file:
            return self._run(host, what, shlex.split(self.script(host, what, *words)), stdin=file, cwd=self.root)

    @staticmethod
    def _run(host: str, what: str, command: Sequence[str], *, timeout: float | None = None, **given: Any) -> str:
        try:
            done: subprocess.CompletedProcess[str] = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False, **given
            )
        except FileNotFoundError:
            raise HostError("the ssh command is missing: apt-get install openssh-client") from None
        except subprocess.TimeoutExpired:
            raise AwayError(f"{host}: does not answer within {timeout:g} s") from None
        if done.returncode != 0:
            away = done.returncode == OF_SSH and not any(seen in done.stderr for seen in ANSWERED)
            why = explain(done.stderr.strip() or f"`{what}` failed ({done.returncode})")
            raise (AwayError if away else HostError)(f"{host}: {why}")
        return done.stdout

    def agent(self) -> bytes:
        """Return what each command is told before anything else."""
        return (self.directory / AGENT).read_bytes()

    def command(self, host: str, what: str, *words: str) -> list[str]:
        """Return the words of `ssh` for a command, which is to be told what `agent` holds first."""
        return [*self._ssh, host, f"{_REMOTE} {shlex.join([what, self.stack, *words])}"]

    def plain(self, host: str, words: Sequence[str], *, terminal: bool = False) -> list[str]:
        """Return the words of `ssh` for a program of the host's, as root."""
        as_root = ["sh", "-c", '[ "$(id -u)" = 0 ] || exec sudo -n "$@"; exec "$@"', "sh", *words]
        return [*self._ssh, "-t" if terminal else "-T", host, shlex.join(as_root)]

    @property
    def _ssh(self) -> list[str]:
        return ["ssh", "-F", str(self.directory.absolute() / CONFIG)]


def explain(words: str) -> str:
    """Return in a line what `ssh` or `sudo` said, where that is known."""
    known = {
        "Host key verification failed": "its key is another one than the host_key of the stack file: ask who runs it",
        "Permission denied (": "nobody may log in by the keys that are here: ssh's agent has none that fits, or "
        "identity_file names another",
        "sudo: a password is required": "sudo asks for a password: let the user run it without (NOPASSWD)",
        "python3: command not found": "python3 is not installed: apt-get install python3",
        "python3: not found": "python3 is not installed: apt-get install python3",
        "Could not resolve hostname": "its address is not known here, or is no address: let `hosts` of the stack file "
        "name it for as long as it is there; where it is gone for good: `cluster forget-host`",
        "timed out during banner exchange": "accepts the connection and says nothing",
    }
    for seen, told in known.items():
        if seen in words:
            return told
    return words


def package() -> str:
    """Return what is sent to a host with each command, as one line; the same bytes for the same files."""
    sent = io.BytesIO()
    with zipfile.ZipFile(sent, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, text in sorted(host_files().items()):
            archive.writestr(zipfile.ZipInfo(place), text, zipfile.ZIP_DEFLATED)
    return base64.b64encode(sent.getvalue()).decode("ascii")


def host_files() -> dict[str, bytes]:
    """Return the code of a host's commands, by its paths."""
    own = {f"platforms/remote/host/{path.name}": path.read_bytes() for path in HOST.glob("*.py")}
    runtime = {f"cluster_runtime/{name}.py": (RUNTIME / f"{name}.py").read_bytes() for name in MODULES}
    return {"platforms/__init__.py": b"", "platforms/remote/__init__.py": b"", **own, **runtime}


def _put(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
