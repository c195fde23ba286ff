"""Uploads, served by the real nginx: as files that no browser runs in the site's name, and to nobody where only the
project may say so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.nginx.running import Running, render, stack, versions, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nginx_versions import Nginx

MEDIA = {"root": "var/uploads", "url": "/files/up/"}
PRIVATE = {"root": "private", "url": "/protected/"}

#: What a browser would run as a page of the site, and what it only shows or saves.
ACTIVE = ("a.html", "a.HTM", "a.xhtml", "a.svg", "a.svgz", "a.xml", "a.shtml", "a.js", "a.mjs", "a.swf")
HARMLESS = ("a.png", "a.jpg", "a.txt", "a.pdf", "a.css", "a", "a b.txt", "ä.txt", "a%2Fb.txt")


def values() -> dict[str, object]:
    made = stack()
    made["app"] |= {"shared": ["var"], "media": MEDIA, "protected_media": PRIVATE}
    return made


@pytest.fixture(params=versions(), scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Running]:
    with Running(request.param, values()) as running:
        shared = Path(running.paths.shared)
        for directory, names in (("var/uploads/docs", (*ACTIVE, *HARMLESS)), ("private", ("secret.pdf",))):
            (shared / directory).mkdir(parents=True)
            for name in names:
                (shared / directory / name).write_text(f"this is {name}")
        yield running


def quoted(name: str) -> str:
    return name.replace("%", "%25").replace(" ", "%20").replace("ä", "%C3%A4")


@pytest.mark.parametrize("name", [*ACTIVE, *HARMLESS])
@pytest.mark.parametrize("closing", [False, True])
def test_an_upload_is_a_file_and_never_a_page(site: Running, name: str, closing: bool) -> None:
    before = len(site.requests)
    if closing:
        Path(site.paths.closing).touch()
    try:
        reply = site.request(f"/files/up/docs/{quoted(name)}")
    finally:
        Path(site.paths.closing).unlink(missing_ok=True)
    assert (reply.status, reply.body.decode()) == (200, f"this is {name}")
    assert reply.headers.get_all("X-Content-Type-Options") == ["nosniff"]
    active = name in ACTIVE
    assert reply.headers.get("Content-Disposition") == ("attachment" if active else None)
    assert ("sandbox" in (reply.headers.get("Content-Security-Policy") or "")) is active
    assert len(site.requests) == before, "no instance is asked"


@pytest.mark.parametrize(
    "path",
    [
        *("/files/up/", "/files/up/docs/", "/files/up/none", "/files/up/../../private/secret.pdf"),
        *("/files/up/..%2f..%2fprivate/secret.pdf", "/files/up/%2e%2e/%2e%2e/private/secret.pdf"),
        *("/files/up/docs/a.txt/x", "/files/up//etc/hostname", "/files/up/docs%00/a.txt"),
    ],
)
def test_nothing_else_is_served(site: Running, path: str) -> None:
    reply = site.request(path)
    answered = {asked for _method, asked in site.requests}
    assert reply.status in {400, 403, 404} or path in answered, "the project's own answer"
    assert b"this is secret" not in reply.body


def test_an_upload_can_be_asked_for_in_parts_and_is_not_sent_twice(site: Running) -> None:
    whole = site.request("/files/up/docs/a.txt")
    part = site.request("/files/up/docs/a.txt", Range="bytes=5-6")
    assert (part.status, part.body) == (206, b"is")
    same = site.request("/files/up/docs/a.txt", If_None_Match=str(whole.headers["ETag"]))
    assert same.status == 304


def test_uploads_are_read_only(site: Running) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert site.request("/files/up/docs/a.txt", method=method, body=b"x").status == 405
    assert site.request("/files/up/docs/a.txt").body == b"this is a.txt"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link that is another user's")
def test_a_link_leads_no_further_than_to_its_makers_own(site: Running) -> None:
    link = Path(site.paths.shared) / "var/uploads/leak.txt"
    link.symlink_to("/etc/hostname")
    os.lchown(link, 4321, 4321)
    try:
        assert site.request("/files/up/leak.txt").status in {403, 404}
    finally:
        link.unlink()


def test_what_is_protected_is_for_whom_the_project_says(site: Running) -> None:
    for path in ("/protected/secret.pdf", "/protected/", "/protected"):
        reply = site.request(path)
        assert b"this is" not in reply.body, path
    assert site.request("/protected/secret.pdf").status == 404
    reply = site.request("/download?accel=/protected/secret.pdf")
    assert (reply.status, reply.body) == (200, b"this is secret.pdf")
    assert reply.headers["Content-Disposition"] == "inline", "what the project says of it stays"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert "X-Accel-Redirect" not in reply.headers


@pytest.mark.parametrize("nginx", versions())
@pytest.mark.parametrize("url", ["/media/", "/static/media/", "/a.b-c~d/e/"])
def test_nginx_accepts_it_without_a_warning(nginx: Nginx, url: str, tmp_path: Path) -> None:
    made = stack()
    made["app"] |= {"media": {"root": "media files/ü", "url": url}, "protected_media": PRIVATE}
    with Running(nginx, made) as running:
        conf = write(render(running.values, running.paths, nginx.version), tmp_path)
        assert conf.is_file()
        assert "[warn]" not in running.error_log
