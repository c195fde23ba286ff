"""What a Docker engine answers at its own socket, where that is on this machine.

The `docker` command asks there too, but each time it is a process that starts: 20 to 30 ms of a processor for an answer
of 2 ms, and a change asks two dozen times. Nothing here says why an engine does not answer: the command does that.
Engine API: https://docs.docker.com/reference/api/engine/
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

from cluster_runtime.unix_http import UnixConnection

if TYPE_CHECKING:
    import socket
    import tarfile
    from collections.abc import Mapping, Sequence

    from typing_extensions import Buffer

T = TypeVar("T")

#: Where an engine listens that nobody has named, as the command has it.
SOCKET = "/var/run/docker.sock"

#: The context of the command that is no other than SOCKET.
DEFAULT = "default"

#: Streams of a process that the engine passes on, by the first byte of a frame; a frame's head, in bytes.
STDOUT, STDERR, HEAD = 1, 2, 8

#: Bytes of an answer that are read at once.
CHUNK = 65536

#: Seconds that a step of a build may take which says nothing.
BUILD_SECONDS = 3600.0

#: Seconds that the engine may take to know the exit status of a process whose output has ended.
STATUS_SECONDS = 5.0

#: Variables that say how the command talks to any engine: it does so itself then, and says what is wrong with them.
OF_COMMAND = ("DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_API_VERSION")


class UnansweredError(Exception):
    """The engine did not answer, or said no: the command may be told more."""


class SilentError(Exception):
    """The engine did not answer in time: the command would wait for as long again."""


def socket_of(host: str, environment: Mapping[str, str]) -> str | None:
    """Return the socket at which the `docker` command would ask the engine; None where that is none of this machine's.

    host: as in docker:host, empty for the one of the environment.
    """
    if any(environment.get(name) for name in OF_COMMAND):
        return None
    named = host or environment.get("DOCKER_HOST", "")
    if named:
        return named.removeprefix("unix://") if named.startswith("unix:///") else None
    context = environment.get("DOCKER_CONTEXT")
    by_default = context == DEFAULT if context else _chooses_default(environment)
    return SOCKET if by_default else None


def _chooses_default(environment: Mapping[str, str]) -> bool:
    """Tell whether the command's own configuration chooses no other context; not where that can't be read."""
    home = environment.get("DOCKER_CONFIG") or (environment.get("HOME") and f"{environment['HOME']}/.docker")
    if not home:
        return False  # the command knows where a user's home is by other ways
    try:
        found = json.loads((Path(home) / "config.json").read_bytes())
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    if not isinstance(found, dict):
        return False
    chosen = [value for key, value in found.items() if key.lower() == "currentcontext"]  # as Go reads a key
    return all(not value or value == DEFAULT for value in chosen)


class Asked:
    """Questions over one connection. timeout: seconds for all of them.

    Each may raise UnansweredError, and SilentError where the time is over.
    """

    def __init__(self, socket: str, timeout: float) -> None:
        self.deadline = time.monotonic() + timeout
        self.connection = UnixConnection(socket, timeout)

    def get(self, path: str, kind: type[T], **query: Any) -> T | None:
        """Return what is there, an object (dict) or a list as `kind` says; None where nothing is.

        query: what is no string is written as JSON.
        """
        told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in query.items()}
        status, body = self._ask("GET", f"{path}?{urlencode(told)}" if told else path)
        if status == http.client.NOT_FOUND:
            return None
        if status != http.client.OK:
            raise UnansweredError(_words(body))
        return _json(body, kind)

    def make(self, container: str, words: Sequence[str]) -> str:
        """Let a program be ready to run in a container that runs; return what `run` is told."""
        told = {"AttachStdout": True, "AttachStderr": True, "Cmd": list(words)}
        status, body = self._ask("POST", f"/containers/{quote(container, safe='')}/exec", told)
        if status != http.client.CREATED:
            raise UnansweredError(_words(body))
        made = _json(body, dict).get("Id")
        if not isinstance(made, str):
            raise UnansweredError("that is no answer of an engine's")
        return made

    def run(self, made: str) -> tuple[int, str, str]:
        """Run it, without an input; return its status, what it printed, and what it printed as an error."""
        status, body = self._ask("POST", f"/exec/{made}/start", {"Detach": False, "Tty": False})
        if status != http.client.OK:
            raise UnansweredError(_words(body))
        printed = _streams(body)
        return self._status(made), printed.get(STDOUT, ""), printed.get(STDERR, "")

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _status(self, made: str) -> int:
        """Return the exit status of what has run: its output may end a moment before that is known."""
        deadline = time.monotonic() + STATUS_SECONDS
        while (found := self.get(f"/exec/{made}/json", dict)) is not None and found.get("Running"):
            if time.monotonic() > deadline:
                raise UnansweredError("its output has ended, and it still runs")
            time.sleep(0.005)
        if found is None:
            raise UnansweredError("the engine has forgotten it")
        status = found.get("ExitCode")
        if not isinstance(status, int):
            raise UnansweredError("the engine does not say how it ended")
        return status

    def _ask(self, method: str, path: str, told: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        body = None if told is None else json.dumps(told)
        headers = {} if told is None else {"Content-Type": "application/json"}
        try:
            self._wait_no_longer()
            self.connection.request(method, path, body, headers)
            sock = self.connection.sock  # which the connection lets go of where the answer's end is its own
            self._wait_no_longer(sock)
            answer = self.connection.getresponse()
            read = bytearray()
            self._wait_no_longer(sock)
            while chunk := answer.read1(CHUNK):
                read += chunk
                self._wait_no_longer(sock)
            missing = answer.length
            answer.close()  # which `read1` does not at the end of what has a length
        except TimeoutError as error:
            self.connection.close()
            raise SilentError from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.connection.close()
            raise UnansweredError(str(error) or type(error).__name__) from error
        if missing:
            self.connection.close()
            raise UnansweredError("its answer ended too early")
        return answer.status, bytes(read)

    def _wait_no_longer(self, sock: socket.socket | None = None) -> None:
        """Wait for what comes next no longer than there is time; TimeoutError where there is none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.connection.timeout = left  # for one that is still to be made
        sock = sock or self.connection.sock
        if sock is not None and sock.fileno() != -1:  # an answer closes what is its own alone
            sock.settimeout(left)


def cache(socket: str, context: Path, arguments: Mapping[str, str], platform: str) -> None:
    """Let BuildKit build a directory by its Dockerfile, as the provider does, into its cache alone: no image is left.

    OSError and HTTPException where the engine is away, or there is no such directory; what a build fails by is not
    told. platform: as in linux/amd64, empty for the engine's own.
    """
    import tarfile  # noqa: PLC0415 - only where a release is new

    query = {"version": "2", "dockerfile": "Dockerfile", "buildargs": json.dumps(dict(arguments))}
    query |= {"outputs": json.dumps([{"Type": "cacheonly"}])}
    query |= {"platform": platform} if platform else {}
    connection = UnixConnection(socket, BUILD_SECONDS)
    with contextlib.closing(connection):
        connection.putrequest("POST", f"/build?{urlencode(query)}")
        connection.putheader("Content-Type", "application/x-tar")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        # What comes first in it says to BuildKit whether it is an archive: in other formats that is not a file's head.
        body = io.BufferedWriter(_Chunks(connection), CHUNK)
        with body, tarfile.open(fileobj=body, mode="w|", format=tarfile.GNU_FORMAT) as archive:
            archive.add(context, arcname=".", filter=_nobodys)
        connection.send(b"0\r\n\r\n")
        connection.getresponse().read()


class _Chunks(io.RawIOBase):
    """Sends what is written to it as the chunks of a body."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        super().__init__()
        self.connection = connection

    def writable(self) -> bool:
        """Return that it is."""
        return True

    def write(self, data: Buffer) -> int:
        """Send one chunk."""
        chunk = bytes(data)
        self.connection.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        return len(chunk)


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return an entry that belongs to root, as the provider has them."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def quoted(image: str) -> str:
    """Return the name of an image as a part of a path."""
    return quote(image, safe="/:@")


def _json(body: bytes, kind: type[T]) -> T:
    try:
        found = json.loads(body)
    except ValueError as error:
        raise UnansweredError("that is no JSON") from error
    if not isinstance(found, kind):
        raise UnansweredError("that is no answer of an engine's")
    return found


def _words(body: bytes) -> str:
    """Return what the engine says of what it refuses."""
    try:
        return str(_json(body, dict)["message"])
    except (UnansweredError, KeyError):
        return body.decode(errors="replace")


def _streams(body: bytes) -> dict[int, str]:
    """Return what a process printed on each stream: frames, each with its stream and its length before it."""
    parts: dict[int, bytearray] = {}
    at, read = 0, memoryview(body)
    while at < len(read):
        begins = at + HEAD
        ends = begins + int.from_bytes(read[at + 4 : begins], "big")
        if ends > len(read) or begins > len(read):
            raise UnansweredError("what it printed ended too early")
        parts.setdefault(read[at], bytearray()).extend(read[begins:ends])
        at = ends
    return {stream: text.decode(errors="replace") for stream, text in parts.items()}
