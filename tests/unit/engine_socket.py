"""An engine at a socket of its own, as far as a test needs one."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class EngineServer(ThreadingMixIn, UnixStreamServer):
    """Answers each connection in a thread."""

    daemon_threads = True

    def handle_error(self, *_words: object) -> None:
        """Say nothing of who has gone."""


class EngineHandler(BaseHTTPRequestHandler):
    """Answers questions over HTTP/1.1, and says nothing of them."""

    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return ""

    def log_message(self, *_words: object) -> None:
        """Say nothing."""

    def answer(self, status: int, body: bytes) -> None:
        """Answer with a body of a known length."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def listening(server: EngineServer) -> Iterator[None]:
    """Let it answer until the end."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
