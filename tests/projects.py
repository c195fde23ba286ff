"""Public Django projects, as they are published, through the real `cluster` command: docs/projects.md.

    .venv/bin/python -m tests.projects [NAME ...]

Each project is fetched at a fixed version (from PyPI by its hash, or by git at a commit), put beside a stack file in a
repository of its own, and taken through `init`, `up` and `verify`. Then somebody logs in, and every instance is asked
whether it knows them; a file is saved by the project's own storage and asked for after each of three releases, which
are made under load. What had to be written by hand stands in the table. A project that fails stays in it with what was
seen: docs/projects.json keeps the last result of each.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import yaml

from cluster.machine.nginx import find_nginx
from cluster.stack.secrets import write_secret
from cluster_runtime.instance_link import InstanceLink
from cluster_runtime.unix_http import UnixConnection
from tests.local.postgres import Postgres
from tests.local.stand import ROOT, Stand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

RESULTS, TABLE = ROOT / "docs" / "projects.json", ROOT / "docs" / "projects.md"

#: Seconds that one command may take: a first `up` compiles and downloads whatever the project needs.
TIMEOUT = 1500.0
CLIENTS, PAUSE, RELEASES = 6, 0.2, 3
USER, EMAIL, PASSWORD = "someone", "someone@example.com", "a long pass phrase 4711"

#: Not by `createsuperuser`: some projects have one of their own, that only asks.
MAKE_USER = (
    "from django.contrib.auth import get_user_model as g; m = g(); "
    f"u = m(**{{n: {EMAIL!r} if n == 'email' else {USER!r} for n in {{m.USERNAME_FIELD, *m.REQUIRED_FIELDS}}}}); "
    f"u.is_staff = u.is_superuser = u.is_active = True; u.set_password({PASSWORD!r}); u.save()"
)
#: A path of the machine that a message names.
HERE = re.compile(r"/(tmp|root|home)/\S+?(?=[:,;)\s]|$)")
SAVE = (
    "from django.core.files.base import ContentFile as F; from django.core.files.storage import default_storage as s; "
    "n = s.save('cluster-upload.txt', F(b'kept')); print('SAVED', s.url(n))"
)


class Failed(Exception):  # noqa: N818 - a result
    """A step did not come out; the text is what was seen."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A source distribution on PyPI."""

    requirement: str
    sha256: str

    def fetch(self, target: Path) -> str:
        with tempfile.TemporaryDirectory() as temporary:
            archive = download(self.requirement, self.sha256, Path(temporary))
            shutil.unpack_archive(archive, target)
        (source,) = target.iterdir()
        for path in source.iterdir():
            path.rename(target / path.name)
        source.rmdir()
        return self.requirement


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A git repository at a commit."""

    url: str
    commit: str

    def fetch(self, target: Path) -> str:
        target.mkdir(parents=True)
        git = ("git", "-C", str(target))
        run(*git, "init", "--quiet")
        run(*git, "fetch", "--quiet", "--depth", "1", self.url, self.commit)
        run(*git, "checkout", "--quiet", "FETCH_HEAD")
        shutil.rmtree(target / ".git")
        return f"{self.url.removeprefix('https://github.com/')} {self.commit[:12]}"


@dataclass(frozen=True, kw_only=True)
class Template:
    """A project that a published tool makes; `arguments` may name what was fetched before as `{template}`."""

    requirement: str
    sha256: str
    arguments: tuple[str, ...]
    template: Repository | None = None

    def fetch(self, target: Path) -> str:
        target.mkdir(parents=True)
        with tempfile.TemporaryDirectory() as temporary:
            template = Path(temporary) / "template"
            what = self.template.fetch(template) if self.template else self.requirement
            tool = download(self.requirement, self.sha256, Path(temporary), wheel=True)
            uv = str(Path(sys.executable).parent / "uv")
            words = [word.format(template=template) for word in self.arguments]
            run(uv, "tool", "run", "--quiet", "--from", str(tool), *words, cwd=target)
        return f"`{self.arguments[0]}` of {what}"


@dataclass(frozen=True, kw_only=True)
class Project:
    """One row.

    directory: what holds manage.py. options: of `init`. built: commands that the project's own instructions name before
    it runs (npm). environment, secrets: what its settings ask for; `{server}` in them is a PostgreSQL server's socket.
    by_hand: what else had to be done, in words; stack: the same as changes of the stack file, by dotted keys. pages:
    what the load asks for. login: the page with the form, empty where the project has none; who: its field, typed: what
    is typed there, form: further ones; account: what else an account needs before it may log in, as a statement about
    the user `u`; inside: a page that only who is logged in gets. media: whether it keeps uploads.
    """

    kind: str
    source: Archive | Repository | Template
    directory: str = "."
    options: tuple[str, ...] = ()
    built: tuple[tuple[str, ...], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    by_hand: tuple[str, ...] = ()
    stack: Mapping[str, Any] = field(default_factory=dict)
    pages: tuple[str, ...] = ("/",)
    login: str = "/admin/login/"
    inside: str = "/admin/"
    who: str = "username"
    typed: str = USER
    account: str = ""
    form: Mapping[str, str] = field(default_factory=dict)
    media: bool = True


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a command, which finds uv; Failed has the last line of what it says."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    if done.returncode != 0:
        raise Failed(last_line(done.stderr or done.stdout))
    return done.stdout


def download(requirement: str, sha256: str, directory: Path, *, wheel: bool = False) -> Path:
    """Return a distribution, from whatever index pip is set up for; its content is checked by its hash."""
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    name = requirement.partition("==")[0]
    command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes")
    kind = "--only-binary" if wheel else "--no-binary"
    run(*command, kind, name, "-r", str(requirements), "-d", str(directory))
    return next(directory.glob("*.whl" if wheel else "*.tar.gz"))


def last_line(text: str) -> str:
    """Return what a person would quote of an error."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no word"


# --- one project


@dataclass(kw_only=True)
class Row:
    """What was seen; a step that was never come to is empty."""

    name: str
    kind: str
    what: str = ""
    by_hand: list[str] = field(default_factory=list)
    init: str = ""
    up: str = ""
    verify: str = ""
    login: str = ""
    upload: str = ""
    load: str = ""
    date: str = ""


class Trial:
    """One project in a repository of its own."""

    def __init__(self, name: str, project: Project, stand: Stand) -> None:
        self.name, self.project, self.stand = name, project, stand
        self.row = Row(name=name, kind=project.kind, by_hand=list(project.by_hand))
        self.cookies: dict[str, str] = {}
        self.saved = ""

    def go(self) -> None:
        """Take the steps as far as they go; what each shows is kept at once."""
        self.row.date = dt.datetime.now(dt.UTC).date().isoformat()
        for step, take in (("what", self.fetch), ("init", self.init), ("up", self.up), ("verify", self.verify)):
            if not self.step(step, take):
                return
        self.step("login", self.log_in)
        if self.project.media and not self.step("upload", self.save):
            self.saved = ""
        self.step("load", self.release)

    def step(self, name: str, take: Callable[[], str]) -> bool:
        """Take a step, and write down what was seen; tell whether it came out."""
        try:
            seen, good = take(), True
        except Failed as failed:
            seen, good = f"failed: {failed}", False
        except (OSError, HTTPException, subprocess.SubprocessError, KeyError, ValueError) as error:
            seen, good = f"failed: {type(error).__name__}: {str(error)[:200]}", False
        seen = HERE.sub("…", seen)
        if good or name != "what":
            setattr(self.row, name, seen)
        else:
            self.row.init = f"not fetched: {seen}"
        keep(self.row)
        print(f"{self.name}: {name}: {seen}", flush=True)
        return good

    def cluster(self, *arguments: str, **environment: str) -> str:
        """Run a command of the cluster; Failed has the first line of what it says is wrong, and the last one."""
        done = subprocess.run(
            self.stand.command(*arguments),
            cwd=self.stand.root,
            env={**self.stand.environment(), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        if done.returncode == 0:
            return done.stdout
        print(done.stdout, done.stderr[-4000:], sep="\n", flush=True)
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip() and not line.startswith("warning:")]
        first, last = (lines[0], lines[-1]) if lines else ("no word", "no word")
        raise Failed(first[:300] if first == last else f"{first[:200]} … {last[:200]}")

    # --- the steps

    def fetch(self) -> str:
        what = self.project.source.fetch(self.stand.root / "source")
        for command in self.project.built:
            run(*command, cwd=self.home)
        return what

    @property
    def home(self) -> Path:
        return self.stand.root / "source" / self.project.directory

    def init(self) -> str:
        self.stand.file.unlink()
        self.stand.name = self.name
        directory = str(self.home.relative_to(self.stand.root))
        # What init asks for is said before it: so it looks at what will run.
        if self.project.secrets:
            self.stand.paths.secrets.mkdir(parents=True, mode=0o700, exist_ok=True)
            write_secret(self.stand.paths.secrets / "secret_environment", json.dumps(dict(self.project.secrets)))
        said = self.cluster("init", self.name, "--project", directory, *self.project.options)
        (self.stand.root / "init.txt").write_text(said)
        print(said, flush=True)
        self.edit()
        named = [*self.project.environment, *self.project.secrets]
        return f"ok; given: {', '.join(named)}" if named else "ok"

    def edit(self) -> None:
        """Write into the stack file what `init` leaves to the user."""
        document = yaml.safe_load(self.stand.file.read_text())
        config = document["config"]
        for path, value in self.project.stack.items():
            first, *more = path.split(".")
            here: Any = config.setdefault(f"cluster:{first}", {}) if more else config
            for key in more[:-1]:
                here = here.setdefault(key, {})
            here[more[-1] if more else f"cluster:{first}"] = value
        if self.project.environment:
            config["cluster:app"].setdefault("environment", {}).update(self.project.environment)
        self.stand.file.write_text(yaml.safe_dump(document, sort_keys=False))
        self.stand.port = config["cluster:site"]["listen"]

    def up(self) -> str:
        began = time.monotonic()
        self.cluster("up", self.name)
        return f"{time.monotonic() - began:.0f} s"

    def verify(self) -> str:
        found = json.loads(self.cluster("verify", self.name, "--json").partition("{")[2].join(("{", "")))
        checks = [check for check in found["checks"] if check["ok"] is not None]
        return f"{sum(check['ok'] for check in checks)} of {len(checks)} checks"

    def log_in(self) -> str:
        if not self.project.login:
            return "has none"
        account = f"{MAKE_USER}; {self.project.account}".rstrip("; ")
        self.cluster("manage", self.name, "--", "shell", "-c", account)
        _status, page = self.ask("GET", self.project.login)
        token = re.search(r'name="?csrfmiddlewaretoken"? value="([^"]+)"', page)
        form = {
            self.project.who: self.project.typed,
            "password": PASSWORD,
            "csrfmiddlewaretoken": token[1] if token else "",
        }
        form |= self.project.form
        status, page = self.ask("POST", self.project.login, urlencode(form))
        if status not in (301, 302, 303):
            raise Failed(f"the login form answered {status}")
        instances = self.stand.status()["instances"]
        known = [self.known_by(one["instance"]) for one in instances]
        if not all(known):
            raise Failed(f"{sum(known)} of {len(known)} instances know the session")
        return f"{len(known)} of {len(known)} instances"

    def known_by(self, instance: str) -> bool:
        """Tell whether an instance lets who is logged in see what nobody else does."""
        connection = UnixConnection(str(InstanceLink(self.stand.paths.run, instance).link), timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", self.project.inside, headers=self.headers())
            inside = connection.getresponse().status
        connection = UnixConnection(str(InstanceLink(self.stand.paths.run, instance).link), timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", self.project.inside, headers={**self.headers(), "Cookie": ""})
            outside = connection.getresponse().status
        return inside == 200 and outside != 200

    def save(self) -> str:
        found = re.search(r"SAVED (\S+)", self.cluster("manage", self.name, "--", "shell", "-c", SAVE))
        if found is None:
            raise Failed("the storage names no URL")
        self.saved = urlsplit(found[1]).path
        status, text = self.ask("GET", self.saved)
        if (status, text) != (200, "kept"):
            raise Failed(f"{self.saved} was answered with {status} after it was saved")
        return "saved"

    def release(self) -> str:
        self.cookies.clear()  # the clients are strangers, who may be answered otherwise than who has logged in
        usual = {page: self.ask("GET", page)[0] for page in self.project.pages}
        kept = 0
        with load(self, usual) as counts:
            for number in range(RELEASES):
                (self.home / "released.txt").write_text(f"release {number}\n")
                self.cluster("up", self.name)
                kept += bool(self.saved) and self.ask("GET", self.saved) == (200, "kept")
        if self.saved:
            self.row.upload = f"{kept} of {RELEASES} releases"
        total, failed = counts.total(), counts.total() - counts["good"]
        seen = ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()) if kind != "good")
        return f"{failed} of {total:,} failed{f' ({seen})' if seen else ''}"

    # --- requests

    def headers(self) -> dict[str, str]:
        host = f"localhost:{self.stand.port}"
        return {
            "Host": host,
            "Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()),
            "Referer": f"http://{host}/",
        }

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        """Return the status and text of an answer, with the cookies that came before."""
        headers = self.headers()
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        with contextlib.closing(HTTPConnection("127.0.0.1", self.stand.port, timeout=60)) as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            for line in response.headers.get_all("Set-Cookie") or []:
                name, _, value = line.partition(";")[0].partition("=")
                self.cookies[name] = value
            return response.status, response.read().decode("utf-8", "replace")


@contextlib.contextmanager
def load(trial: Trial, usual: Mapping[str, int]) -> Iterator[Counter[str]]:
    """Ask for the pages all the while; an answer of another status than before has failed, as none at all has."""
    counts: Counter[str] = Counter()
    stopped, lock = threading.Event(), threading.Lock()

    def client() -> None:
        connection: HTTPConnection | None = None
        while not stopped.is_set():
            for page, status in usual.items():
                try:
                    connection = connection or HTTPConnection("127.0.0.1", trial.stand.port, timeout=120)
                    connection.request("GET", page, headers={"Host": f"localhost:{trial.stand.port}"})
                    response = connection.getresponse()
                    response.read()
                    seen = "good" if response.status == status else f"answered {response.status}"
                except (OSError, HTTPException) as error:
                    seen, connection = type(error).__name__, None
                with lock:
                    counts[seen] += 1
                time.sleep(PAUSE)

    clients = [threading.Thread(target=client, daemon=True) for _number in range(CLIENTS)]
    for one in clients:
        one.start()
    try:
        yield counts
    finally:
        stopped.set()
        for one in clients:
            one.join(150)


@contextlib.contextmanager
def serving(project: Project) -> Iterator[Project]:
    """Start the server that a project's variables name."""
    named = "{server}" in str((project.environment, project.secrets))
    with contextlib.closing(Postgres()) if named else contextlib.nullcontext() as server:
        socket = str(server.root) if server else ""
        environment, secrets = (
            {name: value.replace("{server}", socket) for name, value in values.items()}
            for values in (project.environment, project.secrets)
        )
        yield replace(project, environment=environment, secrets=secrets)


def cookiecutter(**answers: str) -> tuple[str, ...]:
    """Return the command that makes a project of a template."""
    return ("cookiecutter", "--no-input", "{template}", *(f"{key}={value}" for key, value in answers.items()))


def github(name: str, commit: str) -> Repository:
    return Repository(url=f"https://github.com/{name}", commit=commit)


PROJECTS: dict[str, Project] = {
    "wagtail": Project(
        kind="content management, as its own generator makes it",
        source=Template(
            requirement="wagtail==7.1.3",
            sha256="db1a9ea0778c3fee9dd29e9affd0b7f83dc307c749b117a9d424ff1a8fc9f0fd",
            arguments=("wagtail", "start", "mysite", "."),
        ),
        options=("--settings", "mysite.settings.production"),
        pages=("/", "/admin/login/"),
    ),
    "oscar": Project(
        kind="shop",
        source=github("django-oscar/django-oscar", "cdbfc4412c87dd9037d62b04755780b76490373c"),
        directory="sandbox",
        pages=("/", "/catalogue/"),
    ),
    "channels": Project(
        kind="channels (websockets)",
        source=github("django/channels", "60cbc43c1069dce5567c1081781c94e4f4ba0c19"),
        directory="tests/sample_project",
        pages=("/admin/login/",),
        media=False,
    ),
    "sql-explorer": Project(
        kind="two databases",
        source=github("explorerhq/sql-explorer", "26c33ac24ef6ea6e95ed794bacb47c7957489105"),
        options=("--requirements", "requirements/base.txt"),
        pages=("/admin/login/",),
        media=False,
    ),
    "llteacher": Project(
        kind="uv workspace",
        source=github("RedBeardLab/llteacher", "26c440ccfe8fdd9f8e23109188ae89c92002ec0e"),
        pages=("/", "/accounts/login/"),
        login="/accounts/login/",
        inside="/accounts/profile/",
        media=False,
    ),
    "webpack": Project(
        kind="webpack's output (django-webpack-loader's example)",
        source=github("django-webpack/django-webpack-loader", "e5eb4d30c1ba923db4283456cb5419d44a414c91"),
        directory="examples/simple",
        built=(("npm", "install", "--no-audit", "--no-fund"), ("npx", "webpack", "--mode", "production")),
        pages=("/",),
        media=False,
    ),
    "cookiecutter": Project(
        kind="cookiecutter-django, production settings",
        source=Template(
            requirement="cookiecutter==2.7.1",
            sha256="cee50defc1eaa7ad0071ee9b9893b746c1b3201b66bf4d3686d0f127c8ed6cf9",
            template=github("cookiecutter/cookiecutter-django", "f069dea08699b5fdd0f59d5af5a4fa2ce7c8d5f2"),
            arguments=cookiecutter(project_slug="shop", use_docker="n", cloud_provider="None", use_whitenoise="y"),
        ),
        directory="shop",
        options=("--settings", "config.settings.production", "--requirements", "requirements/production.txt"),
        environment={
            "DATABASE_URL": "postgres://cluster@/{server}/cluster",
            "REDIS_URL": "redis://127.0.0.1:6379/0",
            "DJANGO_ADMIN_URL": "admin/",
            "DJANGO_SECURE_SSL_REDIRECT": "False",
            "MAILGUN_DOMAIN": "example.com",
        },
        secrets={"DJANGO_SECRET_KEY": "a key that the overlay replaces", "MAILGUN_API_KEY": "none"},
        pages=("/", "/about/"),
    ),
    "babybuddy": Project(
        kind="application with uploads and an API",
        source=github("babybuddy/babybuddy", "fa8bf4cd66ed149e23c215763a49a2f76dbcd2b7"),
        options=("--settings", "babybuddy.settings.base"),
        pages=("/login/",),
        login="/login/",
    ),
    "healthchecks": Project(
        kind="application that compresses its files",
        source=github("healthchecks/healthchecks", "bfd138ab0a0f5eec46d67f72b33a92f29dada56b"),
        pages=("/", "/docs/"),
        login="/accounts/login/",
        who="email",
        typed=EMAIL,
        form={"action": "login"},
        media=False,
    ),
    "linkding": Project(
        kind="application with a data directory",
        source=github("sissbruecker/linkding", "4e8318d0ae5859f61fbc05ec0cc007cd00247eb2"),
        options=("--settings", "bookmarks.settings.prod"),
        built=(
            ("mkdir", "-p", "data/assets", "data/favicons", "data/previews"),
            ("npm", "ci", "--no-audit", "--no-fund"),
            ("npm", "run", "build"),
        ),
        pages=("/login/",),
        login="/login/",
        inside="/bookmarks",
        media=False,
    ),
    "formula": Project(
        kind="Poetry, with a requirement from git",
        source=github("unfoldadmin/formula", "131f6e85013c6918a441041d004521d8b1f06a15"),
        directory="src",
        pages=("/", "/en/admin/login/"),
        login="/en/admin/login/",
        inside="/en/admin/",
    ),
    "hexlet": Project(
        kind="Poetry, a Django that is older than 5.2",
        source=github("hexlet-components/hexlet-python-django", "8e4f8861fe1e3537c0795fbe1f915c3f8d23acf6"),
        pages=("/", "/calc/history", "/calc/1/2"),
        login="",
        media=False,
    ),
    "django-ca": Project(
        kind="certificate authority",
        source=Archive(
            requirement="django-ca==3.2.0",
            sha256="d631b2c91d27b0fd362db1197a4712703caa1bdce52b935c8e1b61e6c3984c07",
        ),
        directory="ca",
        secrets={"DJANGO_CA_SECRET_KEY": "a key that the overlay replaces"},
        pages=("/admin/login/", "/static/admin/css/base.css"),
        media=False,
    ),
    "django-fmd": Project(
        kind="split settings",
        source=Archive(
            requirement="django-fmd==0.9.2",
            sha256="3c1372fc6e9ddfe242e9440172c90fe0a35172e61b677085255819bd9f183e40",
        ),
        options=("--settings", "findmydevice_project.settings.prod"),
        pages=("/", "/admin/login/"),
        media=False,
    ),
    "django-allauth": Project(
        kind="social logins, a user model of its own",
        source=Archive(
            requirement="django-allauth==65.21.1",
            sha256="128344e260a22b62796747be0a2249ad9488a509c1aa34ab35e3fcf22862dd9e",
        ),
        directory="examples/regular-django",
        pages=("/", "/accounts/login/"),
        login="/accounts/login/",
        who="login",
        typed=EMAIL,
        account="u.emailaddress_set.create(email=u.email, verified=True, primary=True)",
        media=False,
    ),
}


# --- the table

HEADINGS = {
    "name": "project",
    "kind": "kind",
    "init": "init",
    "up": "up",
    "verify": "verify",
    "login": "login on every instance",
    "upload": "upload survives three releases",
    "load": "three releases under load",
}

INTRODUCTION = """\
# Public projects

<!-- Made by `make projects` (tests/projects.py). -->

Public Django projects as they are published, unmodified, through `cluster init`, `up` and `verify` on this machine
(platform local). Then somebody logs in by the project's own form, and every instance is asked on its own socket for a
page that nobody else gets; a file is saved by the project's own default storage and asked for from nginx after each of
three releases; those are made while {clients} clients ask for the project's pages all the time. A request failed when
it was not answered, or with another status than before. "has none": the project has no form to log in by; "-": it
keeps no uploads, or the step was not come to.

What `init` asks for (values for environment variables that the settings need) was given, and is named in the column;
what else had to be done by hand stands below the table. What failed is told as it was seen. Seconds are those of a
machine that did much else, and no measurement ([up.md](benchmarks/up.md) has those).

`make projects`, or `.venv/bin/python -m tests.projects NAME`, makes it again; {machine}.

"""


def render(rows: list[dict[str, Any]], machine: str) -> str:
    """Return docs/projects.md."""
    text = INTRODUCTION.format(clients=CLIENTS, machine=machine)
    text += f"| {' | '.join(HEADINGS.values())} |\n|{'---|' * len(HEADINGS)}\n"
    for row in rows:
        cells = (str(row[key] or "-").replace("|", "\\|") for key in HEADINGS)
        text += f"| {' | '.join(cells)} |\n"
    text += "\n| project | version | date | by hand |\n|---|---|---|---|\n"
    for row in rows:
        by_hand = "; ".join(row["by_hand"]) or "nothing"
        text += f"| {row['name']} | {row['what']} | {row['date']} | {by_hand.replace('|', chr(92) + '|')} |\n"
    return text


def machine() -> str:
    """Return what the last run was made with."""
    nginx = ".".join(map(str, find_nginx()[1]))
    return f"last run with Python {platform.python_version()}, nginx {nginx}, {os.cpu_count()} cores"


def keep(row: Row) -> None:
    """Write a result into the files; several runs beside each other keep each other's."""
    with RESULTS.with_suffix(".md").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
        found["rows"][row.name] = asdict(row)
        found["machine"], found["command"] = machine(), ".venv/bin/python -m tests.projects"
        RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        rows = [found["rows"][name] for name in PROJECTS if name in found["rows"]]
        TABLE.write_text(render(rows, found["machine"]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Take public projects through the cluster command.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PROJECTS)}; default: all")
    parser.add_argument("--keep", action="store_true", help="leave the repository and the cluster in place")
    options = parser.parse_args()
    unknown = set(options.names) - set(PROJECTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    for name in options.names or PROJECTS:
        stand = Stand()
        try:
            with serving(PROJECTS[name]) as project:
                Trial(name, project, stand).go()
        finally:
            if options.keep:
                print(stand.root, flush=True)
            else:
                stand.close()


if __name__ == "__main__":
    main()
