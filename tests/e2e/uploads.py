"""A project that keeps uploads, and clients that send some and read what others have sent: by whichever host."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx

from tests.e2e.hosts import SHARED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.hosts import HostsStand

#: Added to the example: a POST keeps a file, a GET reads one, and both say by which host that was done.
VIEWS = """
import socket

from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.http import HttpResponse
from django.views.decorators.csrf import csrf_exempt


@csrf_exempt
def upload(request, name):
    if request.method == "POST":
        found = default_storage.save(f"docs/{name}", ContentFile(request.body)).encode()
    else:
        try:
            with default_storage.open(f"docs/{name}") as file:
                found = file.read()
        except FileNotFoundError:
            return HttpResponse(status=404, headers={"X-Host": socket.gethostname()})
    return HttpResponse(found, headers={"X-Host": socket.gethostname()})
"""
SETTINGS = 'MEDIA_ROOT, MEDIA_URL = BASE_DIR / "media", "/media/"\n'
URLS = 'from visits import uploads\nurlpatterns.append(path("upload/<name>", uploads.upload))\n'

#: Hosts of which one has visitors, and neither has both roles.
SHARING: dict[str, tuple[str, ...]] = {"web1": ("app",), "web2": ("app",), "edge1": ("nginx",)}

#: Keys of the app.
APP = {"media": {"root": "media"}}


def keep_uploads(stand: HostsStand) -> None:
    """Let the project keep uploads."""
    (stand.project / "visits" / "uploads.py").write_text(VIEWS)
    for path, text in (("example/settings.py", SETTINGS), ("example/urls.py", URLS)):
        stand.edit_code(path, text)


def share_uploads(stand: HostsStand) -> None:
    """Let it keep them where all hosts have them."""
    keep_uploads(stand)
    stand.edit_stack(lambda stack: stack["app"].update(APP, shared_filesystem=SHARED))


def up(stand: HostsStand) -> None:
    result = stand.up()
    assert result.status == 0, result.output


class Uploads:
    """What clients have sent, each to another host, and what came of reading it by each host at once, and at the end.

    sent: by name, what it holds and by which host it was kept. lost: a line for each that was read otherwise. failed: a
    line for each request that was not answered. again: how many files were asked for once more. read: how often what a
    host has kept was read by another.
    """

    def __init__(self, stand: HostsStand, clients: int = 4) -> None:
        self.addresses = [f"http://{host.address}:{stand.port}" for host in stand.visited]
        self.sent: dict[str, tuple[bytes, str]] = {}
        self.lost: list[str] = []
        self.failed: list[str] = []
        self.again = 0
        self.read: Counter[tuple[str, str]] = Counter()
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(clients)]

    @contextmanager
    def under_load(self, least: int = 20) -> Iterator[None]:
        """Let clients send and read; return once all of them have sent as much before and after."""
        for thread in self.threads:
            thread.start()
        self.wait_for(least)
        try:
            yield
            self.wait_for(least)
        finally:
            self.stopped.set()
            for thread in self.threads:
                thread.join()

    def wait_for(self, more: int) -> None:
        begin, deadline = len(self.sent), time.monotonic() + 300
        while len(self.sent) < begin + more:
            assert time.monotonic() < deadline, f"{len(self.sent) - begin} sent, {self.failed[-3:]}"
            time.sleep(0.1)

    def _run(self, number: int) -> None:
        with httpx.Client(headers={"Host": "cluster"}, timeout=60) as client:
            while not self.stopped.is_set():
                self.send(client, self.addresses[number % len(self.addresses)])
                number += 1
                time.sleep(0.2)

    def send(self, client: httpx.Client, address: str) -> None:
        """Send one, and read it by each host, by nginx and by some instance."""
        name, content = secrets.token_hex(8), secrets.token_bytes(2000)
        answer = self._asked(client, "POST", f"{address}/upload/{name}", content)
        if answer is None:
            return
        with self.lock:
            self.sent[name] = (content, answer.headers["X-Host"])
        self.read_everywhere(client, name, instances=True)

    def read_everywhere(self, client: httpx.Client, name: str, *, instances: bool) -> None:
        content, kept_by = self.sent[name]
        for other in self.addresses:
            for url in (f"{other}/media/docs/{name}", *((f"{other}/upload/{name}",) * 2 if instances else ())):
                found = self._asked(client, "GET", url)
                if found is None:
                    continue
                by = found.headers.get("X-Host", other)
                with self.lock:
                    self.read[kept_by, by] += 1
                if found.status_code != 200 or found.content != content:
                    self.lost.append(f"{name}, kept by {kept_by}, {found.status_code} by {by}: {url}")

    def read_again(self) -> None:
        """Read all that was sent once more."""
        with httpx.Client(headers={"Host": "cluster"}, timeout=60) as client:
            for name in self.sent:
                self.read_everywhere(client, name, instances=False)

    def _asked(
        self, client: httpx.Client, method: str, url: str, content: bytes | None = None, *, again: bool = False
    ) -> httpx.Response | None:
        """Ask; for a file once more where a connection that was kept has ended meanwhile, as browsers do."""
        try:
            answer = client.request(method, url, content=content)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
            if method == "GET" and not again:
                self.again += 1
                return self._asked(client, method, url, again=True)
            self.failed.append(f"{method} {url}: {type(error).__name__}")
            return None
        except httpx.HTTPError as error:
            self.failed.append(f"{method} {url}: {type(error).__name__}")
            return None
        if answer.status_code >= 500:
            self.failed.append(f"{method} {url}: {answer.status_code}")
            return None
        return answer

    def __str__(self) -> str:
        across = sum(count for (kept_by, by), count in self.read.items() if kept_by != by)
        return (
            f"{len({line.partition(',')[0] for line in self.lost})} of {len(self.sent):,} uploads lost, "
            f"{len(self.lost)} of {self.read.total():,} times that they were read ({across:,} by another host), "
            f"{len(self.failed)} requests failed, {self.again} files asked for once more"
        )
