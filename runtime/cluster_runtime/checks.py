"""The checks of an instance's health, asked over its own socket."""

from __future__ import annotations

import http
import http.client
from typing import TYPE_CHECKING
from urllib.parse import quote

from cluster_runtime.trial import SERVER_ERROR, UNAVAILABLE, VISITOR
from cluster_runtime.unix_http import UnixConnection
from cluster_runtime.untrusted_json import object_in

if TYPE_CHECKING:
    from pathlib import Path

#: Below it the runtime answers by itself.
PREFIX = "/-/"

#: Bytes of an answer that are read.
MOST_BYTES = 65536


class Unhealthy(Exception):  # noqa: N818 - a state, not a mistake
    """A health check failed; the text says how.

    status: that of the answer; 0 where there was none. failure: the last frames of what the project raised. lasting:
    what it waits for is there, and it fails by itself: to ask again and again will hardly help.
    """

    def __init__(self, message: str, *, status: int = 0, failure: str = "", lasting: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.failure = failure
        self.lasting = lasting


def ask(path: Path, url: str, host: str, timeout: float) -> tuple[int, str]:
    """GET `url` over the socket at `path`; return status and text, or raise Unhealthy where none comes in time."""
    connection = UnixConnection(str(path), timeout)
    try:
        headers = {"Host": host, **VISITOR, "X-Forwarded-Proto": "https", "Connection": "close"}
        connection.request("GET", url, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(MOST_BYTES).decode("utf-8", "replace")
    except TimeoutError as error:
        raise Unhealthy(f"GET {url}: no answer within {timeout:g} s (app.health.timeout)") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unhealthy(f"GET {url}: {type(error).__name__}: {error}") from error
    finally:
        connection.close()


class Checks:
    """Checks of the instance that listens at `socket`. host: the Host header."""

    def __init__(self, socket: Path, host: str) -> None:
        self.socket = socket
        self.host = host

    def check(self, url: str, timeout: float, *, explain: bool) -> None:
        """GET `url`; raise Unhealthy unless it is answered in time and below 400.

        A project that answers every request with 503 means it, and is healthy. explain: where a page of the project's
        fails, find out what the project raised.
        """
        try:
            self._get(url, timeout)
        except Unhealthy as error:
            if url.startswith(PREFIX) or not error.status:
                raise
            # A page that answers 503 alone says what it is asked for.
            if error.status == UNAVAILABLE and self._project_status(timeout) == UNAVAILABLE:
                return
            if not explain or error.status < SERVER_ERROR:
                raise
            raise self._explained(error, url, timeout) from error

    def _get(self, url: str, timeout: float) -> None:
        status, body = ask(self.socket, url, self.host, timeout)
        if status < http.HTTPStatus.BAD_REQUEST:
            return
        said = (object_in(body) or {}) if url.startswith(PREFIX) else {}
        problems = "; ".join(said.get("problems", ())) or body[:500]
        raise Unhealthy(
            f"GET {url} was answered with {status}: {problems}",
            status=status,
            failure=said.get("failure", ""),
            lasting=said.get("lasting", False),
        )

    def _project_status(self, timeout: float) -> object:
        """Return with which status the project answers a request that no view of its own decides."""
        _status, body = ask(self.socket, "/-/health?project", self.host, timeout)
        return (object_in(body) or {}).get("project")

    def _explained(self, error: Unhealthy, url: str, timeout: float) -> Unhealthy:
        """Return the failure of a page of the project's with what the project raised."""
        _status, body = ask(self.socket, f"/-/probe/failure?path={quote(url, safe='/')}", self.host, timeout)
        said = object_in(body) or {}
        failed = said.get("status") == error.status
        return Unhealthy(
            f"GET {url} was answered with {error.status}",
            status=error.status,
            failure=said.get("failure", ""),
            lasting=failed and not said.get("passing", True),
        )
