"""Bad input: one clear message that says what to do, exit status 1, and what was serving serves on, unchanged."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance import servers
from tests.load import Load
from tests.local.stand import Stand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tests.local.stand import Result

#: Requests that are counted before and after each bad `up`, beside those during it.
AROUND = 30

FILE = "stacks/Pulumi.t.yaml"

#: A line of a traceback through this tool: its users have nothing to look for there.
OUR_FRAME = re.compile(r'File ".*/(cli|cluster/(config|console|lint|render|stack)|platforms)/')


def impatient(instances: int = 2) -> Stand:
    stand = Stand(instances=instances)
    # A release that never gets healthy is waited for this long.
    stand.edit_stack(lambda stack: stack["app"].update(health={"start_timeout": "20s"}))
    return stand


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with contextlib.closing(impatient()) as stand:
        result = stand.up()
        assert result.status == 0, result.output
        yield stand


@contextlib.contextmanager
def taken_back(stand: Stand) -> Iterator[None]:
    """Put the stack file, the project and the secrets back as they were; then `up` must find nothing to do."""
    stack = copy.deepcopy(stand.stack)
    paths = (stand.root / "example", stand.paths.secrets)
    files = [path for place in paths for path in place.rglob("*") if path.is_file()]
    before = {path: (path.read_bytes(), path.stat().st_mode) for path in files}
    try:
        yield
    finally:
        stand.stack = stack
        stand.write()
        for place in paths:
            for path in place.rglob("*"):
                if path.is_file() and path not in before:
                    path.unlink()
        for path, (content, mode) in before.items():
            path.write_bytes(content)
            path.chmod(mode)
    result = stand.up()
    assert (result.status, "no changes" in result.output) == (0, True), result.output


def light_load(stand: Stand, *, posts: bool = True) -> Load:
    return Load(stand.address, clients=3, slow=2, slow_seconds=0.1, posts=posts)


def refused(stand: Stand, *phrases: str, path: str | None = None) -> Result:
    """Say `up` under load: it must fail with the phrases, and leave alone what serves."""
    before = stand.serving()
    with light_load(stand) as load:
        load.wait_for(AROUND)
        result = stand.up() if path is None else stand.run("up", stand.name, PATH=path)
        load.wait_for(AROUND)
    print(load.counts)
    assert result.status == 1, result.output
    missing = [phrase for phrase in phrases if phrase not in result.output]
    assert not missing, result.output
    assert not OUR_FRAME.search(result.output), result.output
    assert stand.serving() == before
    assert load.counts.total >= 2 * AROUND
    assert (load.counts.failed, load.counts.lost, load.counts.cut) == ([], [], 0)
    return result


# --- the stack file

STACK_FILES: dict[str, tuple[Callable[[dict[str, Any]], object], tuple[str, ...]]] = {
    "an unknown key": (
        lambda stack: stack["site"].update(lisen=8080),
        (f"{FILE}: site.lisen: unknown key; did you mean listen?",),
    ),
    "several errors at once": (
        lambda stack: (
            servers(stack)["app1"].update(weight=0),
            stack["app"].update(threads="many"),
            stack["sessions"].update(engine="redis"),
            stack["site"].update(client_max_body_size="10 elephants"),
        ),
        (
            f"{FILE}: app.threads: must be a whole number, got 'many'",
            f'{FILE}: upstream.servers[0].weight: must be at least 1, got 0 (to stop traffic use "down: true")',
            f"{FILE}: sessions.engine: ",
            f"{FILE}: site.client_max_body_size: ",
        ),
    ),
    "what nginx would refuse": (
        lambda stack: (stack["upstream"].update(method="ip_hash"), servers(stack)["app2"].update(backup=True)),
        (
            (
                "upstream.servers[1].backup: nginx refuses a backup with the method ip_hash. "
                "Remove `backup`, or set upstream.method to round_robin or least_conn. [backup-with-hash]"
            ),
        ),
    ),
    "a project that is not there": (
        lambda stack: stack["app"].update(project="./elsewhere"),
        (
            (
                "app.project: There is no directory ./elsewhere in the repository. "
                "Name the directory that holds manage.py, from the repository's root. [project-missing]"
            ),
        ),
    ),
    "a file of requirements that is not there": (
        lambda stack: stack["app"].update(requirements="wanted.txt"),
        (
            (
                "app.requirements: There is no wanted.txt in ./example. "
                "Name the file that lists the project's packages, from the project's directory. [requirements-missing]"
            ),
        ),
    ),
}


#: Refused where another of the table is; tests/unit has the words of each.
ALIKE = {
    *("several errors at once", "a project that is not there", "a file of requirements that is not there"),
    *("urls that are no Python", "urls that fail in an instance only", "requirements that no installer reads"),
    *("two migrations that conflict", "static files below another path", "no object", "no list"),
}


def each(table: Iterable[str]) -> list[Any]:
    return [pytest.param(what, marks=pytest.mark.wide if what in ALIKE else ()) for what in table]


@pytest.mark.parametrize("what", each(STACK_FILES))
def test_a_stack_file_is_refused_by_a_line_for_each_problem(stand: Stand, what: str) -> None:
    change, lines = STACK_FILES[what]
    with taken_back(stand):
        change(stand.stack)
        stand.write()
        result = refused(stand, *lines)
        assert len(result.output.splitlines()) == len(lines), result.output


def test_yaml_that_can_not_be_read_is_told_with_its_line_and_column(stand: Stand) -> None:
    with taken_back(stand):
        number = len(stand.file.read_text().splitlines())
        with stand.file.open("a") as file:
            file.write("  cluster:images: [one, two\n")
        result = refused(stand, f"{FILE}: line {number + 2}, column 1: not valid YAML: ")
        assert len(result.output.splitlines()) == 1


# --- the project

CSS = "\nbody { background: url('no-such-picture.png'); }\n"

FAILING_MIGRATION = """
from django.db import migrations


def fail(apps, schema_editor):
    raise ValueError("seven entries have no author")


class Migration(migrations.Migration):
    dependencies = [("visits", "0001_initial")]
    operations = [migrations.RunPython(fail)]
"""

CONFLICTING_MIGRATION = """
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("visits", "0001_initial")]
    operations = []
"""

#: What is wrong with the project: files with what is added to them, and what `up` says.
PROJECTS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "settings that are no Python": (
        {"example/settings.py": "\nTIME_ZONE = = 'UTC'\n"},
        ("app.settings: the project does not import", "example/settings.py", "SyntaxError: invalid syntax"),
    ),
    "urls that are no Python": (
        {"example/urls.py": "\nurlpatterns += path(\n"},
        ("app.settings: the project does not import", "example/urls.py", "SyntaxError: '(' was never closed"),
    ),
    "urls that fail in an instance only": (
        {"example/urls.py": "import os\nassert 'CLUSTER_INSTANCE' not in os.environ, 'no instance wanted'\n"},
        ("did not get healthy", "removing app1 of release", "logs/app1-", "AssertionError: no instance wanted"),
    ),
    "a module that no requirement brings": (
        {"visits/apps.py": "import unlisted_module\n"},
        (
            "app.settings: the project does not import",
            "No module named 'unlisted_module'",
            "If unlisted_module is a package, add it to requirements.txt.",
        ),
    ),
    "a requirement that does not exist": (
        {"requirements.txt": "no-such-package-xyz-123==9.9\n"},
        ("app.requirements: the packages can't be installed", "no-such-package-xyz-123"),
    ),
    "requirements that no installer reads": (
        {"requirements.txt": "django === === 5\n"},
        ("app.requirements: the packages can't be installed", "requirements.txt"),
    ),
    "a migration that raises": (
        {"visits/migrations/0002_authors.py": FAILING_MIGRATION},
        ("app.migrate: migrate failed in release", "ValueError: seven entries have no author"),
    ),
    "two migrations that conflict": (
        {
            "visits/migrations/0002_one.py": CONFLICTING_MIGRATION,
            "visits/migrations/0002_two.py": CONFLICTING_MIGRATION,
        },
        ("app.migrate: migrate failed in release", "Conflicting migrations detected", "makemigrations --merge"),
    ),
    "a style sheet that leads nowhere": (
        {"visits/static/visits/style.css": CSS},
        ("app.collectstatic: collectstatic failed", "visits/no-such-picture.png", "could not be found"),
    ),
    "static files below another path": (
        {"example/settings.py": "\nSTATIC_URL = 'assets/'\n"},
        (
            (
                "site.static_url: The project's STATIC_URL is /assets/, and nginx serves static files below /static/. "
                "Set it to /assets/. [static-url-differs]"
            ),
        ),
    ),
}


@pytest.mark.parametrize("what", each(PROJECTS))
def test_a_project_that_can_not_serve_takes_no_name(stand: Stand, what: str) -> None:
    files, phrases = PROJECTS[what]
    with taken_back(stand):
        for path, text in files.items():
            stand.edit_code(path, text)
        refused(stand, *phrases)


def test_a_release_whose_database_does_not_answer_takes_no_name(stand: Stand) -> None:
    with taken_back(stand):
        url = stand.paths.secrets / "database_url"
        url.write_text("sqlite:////nonexistent/db.sqlite3")
        url.chmod(0o600)
        stand.stack["database"] = {"engine": "external", "discard": True}
        stand.edit_stack(lambda stack: stack["app"].update(migrate=False))
        result = refused(
            stand,
            "did not get healthy: not healthy within 20 s",
            "database: OperationalError: unable to open database file",
            "removing app1 of release",
        )
        assert "sqlite:////" not in result.output, "a secret was shown"


# --- secrets

SECRETS: dict[str, tuple[str, str, int, str]] = {
    "one that others can read": ("secret_key", "k" * 50, 0o644, "mode 0644 lets others read it; chmod 600 it"),
    "no JSON": ("secret_environment", '{"API_TOKEN": s3cret-word', 0o600, "must be a JSON object"),
    "no object": ("secret_environment", '["s3cret-word"]', 0o600, "must be a JSON object"),
    "no list": ("secret_key_fallbacks", "s3cret-word", 0o600, "must be a JSON list"),
    "an unknown name": ("secret-key", "s3cret-word", 0o600, "not a secret's name; known are secret_key, "),
}


@pytest.mark.parametrize("what", each(SECRETS))
def test_a_secret_that_can_not_be_used_is_named_and_not_shown(stand: Stand, what: str) -> None:
    name, value, mode, phrase = SECRETS[what]
    with taken_back(stand):
        path = stand.paths.secrets / name
        path.write_text(value)
        path.chmod(mode)
        result = refused(stand, f"{path}: {phrase}")
        assert len(result.output.splitlines()) == 1
        assert "s3cret-word" not in result.output
        assert "k" * 50 not in result.output


# --- the machine


def test_a_port_of_another_program_is_refused_for_the_site(stand: Stand) -> None:
    with taken_back(stand), listener("0.0.0.0") as port:
        stand.edit_stack(lambda stack: stack["site"].update(listen=port))
        refused(stand, f"site.listen: port {port} is in use by another program; choose another, or stop that one")


def test_a_port_of_another_program_is_refused_for_an_instance(stand: Stand) -> None:
    with taken_back(stand), listener("127.0.0.1") as port:
        stand.edit_stack(lambda stack: stack["site"].update(instance_ports=port - 1))
        refused(stand, f"site.instance_ports: port {port} is in use by another program; choose another")


@contextlib.contextmanager
def listener(address: str) -> Iterator[int]:
    """Listen on a port whose neighbour below is free."""
    with socket.socket() as taken:
        taken.bind((address, 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_an_nginx_that_is_too_old_is_refused(stand: Stand, tmp_path: Path) -> None:
    nginx = tmp_path / "nginx"
    nginx.write_text("#!/bin/sh\necho 'nginx version: nginx/1.18.0' >&2\n")
    nginx.chmod(0o755)
    with taken_back(stand):
        stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=7))
        path = f"{tmp_path}:{os.environ['PATH']}"
        refused(stand, f"nginx 1.18.0 ({nginx}) is too old: 1.22.0 or newer is needed", path=path)


@pytest.mark.parametrize("program", ["nginx", pytest.param("memcached", marks=pytest.mark.wide)])
def test_a_missing_program_is_told_with_the_command_that_installs_it(stand: Stand, program: str) -> None:
    with taken_back(stand):
        stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=7))
        with stand.sabotaged(f"no_{program}"):
            refused(stand, f"{program} is not installed: apt-get install --no-install-recommends {program}")


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk can be mounted by root only")
def test_a_full_disk_stops_up_and_nothing_else() -> None:
    # Sessions in cookies: a database on a full disk is a matter of its own.
    with contextlib.closing(impatient(instances=1)) as stand, small_disk(stand) as disk:
        stand.edit_stack(lambda stack: stack.update(sessions={"engine": "signed_cookies"}))
        result = stand.up()
        assert result.status == 0, result.output
        with light_load(stand, posts=False) as load:
            before = stand.serving()
            filler = disk / "filler"
            fill(filler)
            stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=7))
            stand.edit_code("visits/apps.py", "# another release\n")
            assert_no_room(stand.up())
            # Room for nginx's configuration, and not for the release.
            os.truncate(filler, filler.stat().st_size - 2 * 1024**2)
            assert_no_room(stand.up())
            assert stand.serving() == before
            with (stand.root / "example" / "requirements.txt").open("a") as file:
                file.write("# another environment\n")
            assert_no_room(stand.up())
            assert stand.serving() == before
            filler.unlink()
            result = stand.up()
            assert result.status == 0, result.output
            load.wait_for(AROUND)
        print(f"a full disk: {load.counts}")
        assert (load.counts.failed, load.counts.lost, load.counts.cut) == ([], [], 0)
        assert stand.serving() != before
        assert "no changes" in stand.up().output


@contextlib.contextmanager
def small_disk(stand: Stand) -> Iterator[Path]:
    """Let all that the stack keeps be on a disk of its own."""
    directory = stand.root / ".cluster"
    directory.mkdir()
    size = "size=160m,mode=0755"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", directory], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield directory
    finally:
        stand.down()
        subprocess.run(["umount", "--lazy", directory], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1024**2, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)


def assert_no_room(result: Result) -> None:
    assert result.status == 1, result.output
    words = " ".join(result.output.split())  # uv breaks its lines
    assert re.search("no space left on device", words, re.IGNORECASE), result.output
    assert "free some room" in result.output, result.output
    assert not OUR_FRAME.search(result.output), result.output


# --- two at once

#: The release takes its time where it is made, and nowhere else: until it may go on.
SLOW_IMPORT = """
import os, sys, time

latest = time.monotonic() + 60
while "cluster_runtime.describe" in sys.orig_argv and time.monotonic() < latest and not os.path.exists("{go_on}"):
    time.sleep(0.1)
"""


def test_a_second_up_at_the_same_time_is_told_who_is_at_it(stand: Stand) -> None:
    with light_load(stand) as load:
        first = up_at_import(stand, "")
        result = stand.up()
        assert result.status == 1, result.output
        assert re.fullmatch(
            rf"`cluster up t` \(process {first.pid}, since [\d:]+\) is changing this stack; wait until it has ended\n",
            result.output,
        ), result.output
        go_on(stand).touch()
        output, _ = first.communicate(timeout=120)
        assert first.returncode == 0, output
        assert "no changes" in stand.up().output
    print(load.counts)
    assert (load.counts.failed, load.counts.lost, load.counts.cut) == ([], [], 0)


def test_without_the_lock_nobody_tells_the_second_one(stand: Stand) -> None:
    first = up_at_import(stand, "# again\n")
    with stand.sabotaged("no_lock"):
        second = stand.start("up", stand.name)
    try:
        seen = read_until(second, "importing the project")
        assert "is changing this stack" not in "".join(seen)
    finally:
        second.kill()
        second.wait()
        go_on(stand).touch()
        first.communicate(timeout=120)
    result = stand.up()
    assert result.status == 0, result.output
    assert stand.status()["ok"]


def go_on(stand: Stand) -> Path:
    """Return the file that tells the import to go on."""
    return stand.root / "go-on"


def up_at_import(stand: Stand, text: str) -> subprocess.Popen[str]:
    """Begin an `up` that imports until it may go on. text: makes it another release."""
    go_on(stand).unlink(missing_ok=True)
    stand.edit_code("visits/apps.py", SLOW_IMPORT.format(go_on=go_on(stand)) + text)
    first = stand.start("up", stand.name)
    read_until(first, "importing the project")
    return first


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return seen
    raise AssertionError("".join(seen))
