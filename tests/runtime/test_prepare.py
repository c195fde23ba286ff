"""Tasks of a release: what they must not say, and what they must not have half done."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cluster_runtime.compress import WORTH_COMPRESSING, compress
from cluster_runtime.describe import NOT_COMPRESSED
from cluster_runtime.instance_link import InstanceLink
from cluster_runtime.prepare import mask
from tests.runtime.standing import SECRET_KEY, SETTINGS, URLS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.runtime.standing import Stand

KEY = "canary-key-0123456789"


# --- secrets in what programs say


def test_the_value_of_a_secret_is_replaced_by_its_name() -> None:
    secrets = {"secret_key": KEY, "secret_environment": json.dumps({"TOKEN": "canary-token", "PIN": 987654})}
    text = f"key={KEY} token='canary-token' pin: 987654, the rest"
    assert mask(text, secrets) == "key=[secret_key] token='[TOKEN]' pin: [PIN], the rest"


def test_fallback_keys_are_secrets_too() -> None:
    secrets = {"secret_key": KEY, "secret_key_fallbacks": json.dumps([f"{KEY}-older", "canary-oldest"])}
    found = mask(f"{KEY} {KEY}-older canary-oldest", secrets)
    assert found == "[secret_key] [secret_key_fallbacks] [secret_key_fallbacks]", "the longest first"


#: Passwords as they stand in a URL, and as the database is told them.
PASSWORDS = {
    "plain": ("canary-password", "canary-password"),
    "quoted": ("canary%2Fpass%40word", "canary/pass@word"),
    "with an at": ("canary@password", "canary@password"),
    "with a colon": ("canary:password", "canary:password"),
}


@pytest.mark.parametrize("name", PASSWORDS)
@pytest.mark.parametrize("rest", ["db.example:5432/cluster", "/cluster?host=/run/database", "db"])
def test_of_the_database_s_url_the_password_alone_is_a_secret_as_it_stands_there_and_as_it_is_told(
    name: str, rest: str
) -> None:
    written, told = PASSWORDS[name]
    secrets = {"database_url": f"postgres://cluster:{written}@{rest}"}
    text = f"refused {secrets['database_url']}; password={told!r}; {written}"
    found = mask(text, secrets)
    assert found == "refused [database_url]; password='[database_url]'; [database_url]"


@pytest.mark.parametrize(
    "url", ["postgres://cluster@db/cluster", "postgres:///cluster", "", "postgres://cluster:@db/x"]
)
def test_a_url_without_a_password_hides_no_word(url: str) -> None:
    text = "cluster and db are no secrets"
    assert mask(text, {"database_url": url}) == text


#: Values that Python or JSON write in another way than they are.
AWKWARD = {
    "a quote": "canary'key",
    "both quotes": "canary'and\"key",
    "a backslash": "canary\\key",
    "two lines": "canary\nkey",
    "an umlaut": "canary-schlüssel",
    "a tab and quotes": "\tcanary\"'key\\",
}


@pytest.mark.parametrize("name", AWKWARD)
def test_a_value_is_found_in_whatever_form_a_traceback_or_a_log_of_json_shows_it(name: str) -> None:
    value = AWKWARD[name]
    settings = {"SECRET_KEY": value, "DEBUG": False}
    text = f"{value}|{value!r}|{settings}|{json.dumps(settings)}|{json.dumps(value)}"
    found = mask(text, {"secret_key": value})
    assert "canary" not in found
    assert found.count("[secret_key]") == 5
    assert "'DEBUG': False" in found, "more than the secret was hidden"


def test_a_value_that_is_an_ordinary_word_is_too_short_to_be_hidden() -> None:
    secrets = {"secret_key": KEY, "secret_environment": json.dumps({"DEBUG": "no", "LEVEL": 3, "EMPTY": ""})}
    text = "no 3 things happened"
    assert mask(text, secrets) == text


def test_a_secret_that_is_part_of_another_does_not_leave_the_rest_of_it() -> None:
    secrets = {"secret_key": KEY, "secret_environment": json.dumps({"LONG": f"{KEY}-and-more"})}
    assert mask(f"{KEY}-and-more", secrets) == "[LONG]"


def test_of_the_broker_s_url_the_password_is_a_secret_too() -> None:
    secrets = {"secret_key": KEY, "broker_url": "rediss://:canary-password@10.1.0.31:6380/0?ssl_cert_reqs=required"}
    assert mask("AUTH canary-password; canary-password", secrets) == "AUTH [broker_url]; [broker_url]"


def test_an_at_after_the_host_does_not_show_the_password() -> None:
    secrets = {"database_url": "postgres://cluster:canary-password@db/cluster?application_name=a@b"}
    assert "canary" not in mask("password=canary-password", secrets)


# --- compressed copies


def test_a_file_that_is_worth_it_has_a_compressed_copy_of_the_same_time(tmp_path: Path) -> None:
    text = b"a { color: red }\n" * 100
    (tmp_path / "css").mkdir()
    for name, content in {"css/a.css": text, "css/small.css": text[: WORTH_COMPRESSING - 1], "a.png": text}.items():
        (tmp_path / name).write_bytes(content)
    os.utime(tmp_path / "css" / "a.css", (1000, 1000))
    compress(tmp_path, (".css",))
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["a.png", "css/a.css", "css/a.css.gz", "css/small.css"], "something is left that nobody asked for"
    copy = tmp_path / "css" / "a.css.gz"
    assert gzip.decompress(copy.read_bytes()) == text
    assert copy.stat().st_mtime == 1000


def test_a_compressed_copy_that_is_being_served_stays_whole_while_another_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, copy = tmp_path / "a.css", tmp_path / "a.css.gz"
    path.write_bytes(b"a" * 5000)
    compress(tmp_path, (".css",))
    before = copy.read_bytes()
    seen = []

    def looked_at(_descriptor: int, _mode: int) -> None:
        seen.append(copy.read_bytes())

    monkeypatch.setattr("cluster_runtime.compress.os.fchmod", looked_at)
    path.write_bytes(b"b" * 5000)
    with copy.open("rb") as served:
        compress(tmp_path, (".css",))
        assert served.read() == before, "whoever is reading it would get the half of one and the half of the other"
    assert seen == [before]
    assert gzip.decompress(copy.read_bytes()) == b"b" * 5000


def test_a_project_that_has_no_static_files_has_none_to_compress(tmp_path: Path) -> None:
    compress(tmp_path / "static", (".css",))
    assert not (tmp_path / "static").exists()


def test_files_of_the_same_text_are_compressed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"a.css": b"a", "a.0123456789ab.css": b"a", "b.css": b"b"}.items():
        (tmp_path / name).write_bytes(text * 5000)
    made, really = [], gzip.compress

    def counted(text: bytes, **options: int) -> bytes:
        made.append(text[:1])
        return really(text, **options)

    monkeypatch.setattr("cluster_runtime.compress.gzip.compress", counted)
    compress(tmp_path, (".css",))
    assert sorted(made) == [b"a", b"b"]
    found = {path.name: gzip.decompress(path.read_bytes())[:1] for path in tmp_path.glob("*.gz")}
    assert found == {"a.css.gz": b"a", "a.0123456789ab.css.gz": b"a", "b.css.gz": b"b"}


@pytest.mark.parametrize(
    ("in_the_way", "status"), [(False, 0), (True, NOT_COMPRESSED)], ids=["made", "something is in the way"]
)
def test_what_is_collected_is_compressed_by_the_same_process(stand: Stand, in_the_way: bool, status: int) -> None:
    apps = 'INSTALLED_APPS = ["django.contrib.staticfiles", "mini"]'
    settings = SETTINGS.replace("INSTALLED_APPS = []", apps) + 'STATIC_URL = "static/"\n'
    stand.write({"mini/settings.py": settings, "mini/static/a.css": "a" * 5000, "mini/static/a.png": "a" * 5000})
    public = stand.root / "public"
    if in_the_way:
        (public / ".a.css.gz.new").mkdir(parents=True)
    config = stand.config(static_root=str(public))
    words = ["-m", "cluster_runtime.describe", str(stand.root / "facts.json"), "--collect", "--compress=.css,.js"]
    done = subprocess.run(
        [sys.executable, *words], env=stand.environment(config), capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    found = {path.name: gzip.decompress(path.read_bytes()) for path in public.glob("*.gz")}
    assert found == ({} if in_the_way else {"a.css.gz": b"a" * 5000})
    assert ("IsADirectoryError" in done.stderr) is in_the_way


def test_no_copy_is_made_of_what_a_link_leads_to(tmp_path: Path) -> None:
    secret, public = tmp_path / "secret.css", tmp_path / "public"
    secret.write_bytes(b"s" * 5000)
    (public / "css").mkdir(parents=True)
    (public / "css" / "a.css").symlink_to(secret)
    (public / "linked").symlink_to(tmp_path)
    os.mkfifo(public / "css" / "pipe.css")
    (public / ".b.css.gz.new").symlink_to(secret)
    (public / "b.css").write_bytes(b"b" * 5000)
    compress(public, (".css",))
    assert [path.name for path in public.rglob("*.gz")] == ["b.css.gz"]
    assert secret.read_bytes() == b"s" * 5000
    assert not (tmp_path / "secret.css.gz").exists()


def test_what_a_killed_compression_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_bytes(b"a" * 5000)
    (tmp_path / ".a.css.gz.new").write_bytes(b"half")
    compress(tmp_path, (".css",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.css", "a.css.gz"]
    assert gzip.decompress((tmp_path / "a.css.gz").read_bytes()) == b"a" * 5000


# --- a release, as a container proves it


STATIC = SETTINGS.replace("INSTALLED_APPS = []", 'INSTALLED_APPS = ["django.contrib.staticfiles", "mini"]') + (
    'STATIC_URL = "/static/"\n'
)
PAGE = """

from django.http import HttpResponse

urlpatterns.insert(0, path("page", lambda request: HttpResponse('<link href="/static/site.css">')))
"""
COMMAND = """
from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("text")

    def handle(self, text, **options):
        Path(settings.STATIC_ROOT, "site.css").write_text(text * 2000)
"""


def prepare(stand: Stand, **values: object) -> subprocess.CompletedProcess[str]:
    root = stand.root / "static" / "one" / "static"
    health = {"pages": ["/page"], **values.pop("health", {})}  # type: ignore[dict-item]
    settings = {"static_root": str(root), "static_url": "/static/", "site": "http://localhost:8080", **values}
    config = stand.config("one", secrets=str(stand.root / "kept" / "one"), health=health, **settings)
    command = [sys.executable, "-m", "cluster_runtime.prepare", "--lock", str(stand.root / "static" / "lock")]
    (stand.root / "static").mkdir(exist_ok=True)
    (stand.root / "kept").mkdir(exist_ok=True)
    return subprocess.run(
        [
            *command,
            "release",
            "--no-migrate",
            "--instance",
            "app1",
            "--sockets",
            str(stand.sockets),
            "--compress",
            ".css",
        ],
        env=stand.environment(config),
        input=json.dumps({"secret_key": SECRET_KEY}),
        capture_output=True,
        text=True,
        check=False,
    )


def a_project(stand: Stand) -> None:
    stand.write({"mini/settings.py": STATIC, "mini/urls.py": URLS + PAGE})
    stand.write({"mini/management/__init__.py": "", "mini/management/commands/__init__.py": ""})
    stand.write({"mini/management/commands/build.py": COMMAND})


def test_a_page_whose_file_is_missing_stops_a_release_and_a_release_command_makes_it(stand: Stand) -> None:
    a_project(stand)
    done = prepare(stand)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "release one does not do for visitors what it should:"
    assert "app.health.pages: GET /page names /static/site.css, which is not there" in lines[1]
    done = prepare(stand, release_commands=["build 'a b'"])
    assert done.returncode == 0, done.stderr
    assert "running build 'a b'" in done.stdout.splitlines()
    made = stand.root / "static" / "one" / "static" / "site.css"
    assert gzip.decompress(made.with_name("site.css.gz").read_bytes()) == made.read_bytes()
    assert prepare(stand, health={"pages": []}).returncode == 0, "the saboteur: with no page to look at"


def test_a_release_command_that_fails_is_named(stand: Stand) -> None:
    a_project(stand)
    done = prepare(stand, release_commands=["check", "build"])
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "app.release_commands[1]: `build` failed in release one"
    assert "the following arguments are required: text" in done.stderr


def test_a_page_that_fails_stops_a_release_with_the_project_s_traceback_where_the_serving_one_answers(
    stand: Stand,
) -> None:
    a_project(stand)
    serving = stand.serving("zero", health={"pages": []})
    stand.write({"mini/urls.py": URLS.replace('path("", home)', 'path("", boom)')})
    done = prepare(stand, health={"pages": ["/"]})
    assert done.returncode == 1
    assert "app.health.pages: GET / is answered with 500; the serving release answers 200" in done.stderr
    assert done.stderr.count("RuntimeError: boom") == 1
    assert serving.name.holder() == "zero"
    done = prepare(stand, health={"pages": ["/boom"]})
    assert done.returncode == 0, "the serving release answers the same"


# --- show


def show(stand: Stand, *wanted: str) -> subprocess.CompletedProcess[str]:
    static = stand.root / "static"
    (static / "one").mkdir(parents=True, exist_ok=True)
    words = ["--lock", str(static / "lock"), "show", "--static", str(static), "--turn", "3"]
    asked = {"CLUSTER_SERVE": " ".join(wanted), "CLUSTER_SOCKETS": str(stand.sockets)} if wanted else {}
    return subprocess.run(
        [sys.executable, "-m", "cluster_runtime.prepare", *words],
        env={**stand.environment(stand.config("one")), **asked},
        capture_output=True,
        text=True,
        check=False,
    )


def test_names_are_taken_once_the_static_files_are_shown(stand: Stand) -> None:
    link = InstanceLink(stand.sockets, "app1")
    link.directory.mkdir(parents=True, exist_ok=True)
    link.write_status("one.host", {"state": "ready"})
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(link.socket("one.host")))
        listener.listen()
        assert (show(stand).stdout, link.holder()) == ("", None), "nobody has asked for it"
        done = show(stand, "app1/one.host")
    assert (done.returncode, done.stdout, done.stderr) == (0, "app1/one.host/1\n", "")
    assert (link.holder(), (stand.root / "static" / "current").readlink().name) == ("one.host", "one")


def test_who_can_not_take_its_name_is_told_and_the_task_fails(stand: Stand) -> None:
    InstanceLink(stand.sockets, "app1").directory.mkdir(parents=True, exist_ok=True)
    done = show(stand, "app1/one.host")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "app1: release one.host is not running\n")
