"""What a Docker engine answers at its own socket, where that is on this machine.

The `docker` command asks there too, but each time it is a process that starts: 20 to 30 ms of a processor for an answer
of 2 ms, and a change asks two dozen times. Nothing here says why an engine does not answer: the command does that.
Engine API: https://docs.docker.com/reference/api/engine/
"""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from cluster_runtime.unix_http import UnixConnection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Where an engine listens that nobody has named, as the command has it.
SOCKET = "/var/run/docker.sock"

#: The context of the command that is no other than SOCKET.
DEFAULT = "default"

#: Streams of a process that the engine passes on, by the first byte of a frame; a frame's head, in bytes.
STDOUT, STDERR, HEAD = 1, 2, 8

#: Bytes of an answer that are read at once.
CHUNK = 65536

#: Seconds that the engine may take to know the exit status of a process whose output has ended.
STATUS_SECONDS = 5.0


class UnansweredError(Exception):
    """The engine did not answer, or said no: the command may be told more."""


def socket_of(host: str, environment: Mapping[str, str]) -> str | None:
    """Return the socket at which the `docker` command would ask the engine; None where that is none of this machine's.

    host: as in docker:host, empty for the one of the environment.
    """
    named = host or environment.get("DOCKER_HOST", "")
    if named:
        return named.removeprefix("unix://") if named.startswith("unix:///") else None
    context = environment.get("DOCKER_CONTEXT") or _chosen(environment)
    return SOCKET if context == DEFAULT else None


def _chosen(environment: Mapping[str, str]) -> str | None:
    """Return the context that is chosen in the command's own configuration; None where that can't be read."""
    home = environment.get("DOCKER_CONFIG") or f"{environment.get('HOME', '')}/.docker"
    try:
        found = json.loads((Path(home) / "config.json").read_bytes())
    except FileNotFoundError:
        return DEFAULT
    except (OSError, ValueError):
        return None
    return found.get("currentContext") or DEFAULT if isinstance(found, dict) else None


class Asked:
    """Questions over one connection. timeout: seconds for each. UnansweredError is what each of them may raise."""

    def __init__(self, socket: str, timeout: float) -> None:
        self.timeout = timeout
        self.connection = UnixConnection(socket, timeout)

    def get(self, path: str, **query: Any) -> Any:
        """Return what is there; None where nothing is. query: what is no string is written as JSON."""
        told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in query.items()}
        status, body = self._ask("GET", f"{path}?{urlencode(told)}" if told else path)
        if status == http.client.NOT_FOUND:
            return None
        if status != http.client.OK:
            raise UnansweredError(body.decode(errors="replace"))
        return _json(body)

    def make(self, container: str, words: Sequence[str]) -> str:
        """Let a program be ready to run in a container that runs; return what `run` is told."""
        told = {"AttachStdout": True, "AttachStderr": True, "Cmd": list(words)}
        status, body = self._ask("POST", f"/containers/{container}/exec", told)
        if status != http.client.CREATED:
            raise UnansweredError(body.decode(errors="replace"))
        made: str = _json(body)["Id"]
        return made

    def run(self, made: str) -> tuple[int, str, str]:
        """Run it, without an input; return its status, what it printed, and what it printed as an error."""
        status, body = self._ask("POST", f"/exec/{made}/start", {"Detach": False, "Tty": False})
        if status != http.client.OK:
            raise UnansweredError(body.decode(errors="replace"))
        printed = _streams(body)
        return self._status(made), printed.get(STDOUT, ""), printed.get(STDERR, "")

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _status(self, made: str) -> int:
        """Return the exit status of what has run: its output may end a moment before that is known."""
        deadline = time.monotonic() + STATUS_SECONDS
        while (found := self.get(f"/exec/{made}/json")) is not None and found["Running"]:
            if time.monotonic() > deadline:
                raise UnansweredError("its output has ended, and it still runs")
            time.sleep(0.005)
        if found is None:
            raise UnansweredError("the engine has forgotten it")
        return int(found["ExitCode"])

    def _ask(self, method: str, path: str, told: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        body = None if told is None else json.dumps(told)
        headers = {} if told is None else {"Content-Type": "application/json"}
        deadline = time.monotonic() + self.timeout
        try:
            self.connection.request(method, path, body, headers)
            sock = self.connection.sock
            answer = self.connection.getresponse()
            read = bytearray()
            while chunk := answer.read1(CHUNK):
                read += chunk
                sock.settimeout(max(0.01, deadline - time.monotonic()))
            answer.close()  # which `read1` does not at the end of what has a length
            return answer.status, bytes(read)
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            raise UnansweredError(str(error) or type(error).__name__) from error


def quoted(image: str) -> str:
    """Return the name of an image as a part of a path."""
    return quote(image, safe="/:@")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise UnansweredError("that is no JSON") from error


def _streams(body: bytes) -> dict[int, str]:
    """Return what a process printed on each stream: frames, each with its stream and its length before it."""
    parts: dict[int, bytearray] = {}
    while body:
        stream, length = body[0], int.from_bytes(body[4:HEAD], "big")
        parts.setdefault(stream, bytearray()).extend(body[HEAD : HEAD + length])
        body = body[HEAD + length :]
    return {stream: text.decode(errors="replace") for stream, text in parts.items()}
