"""`cluster plan --against`: two states of a real git repository are compared by their files alone; neither is run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from typer.testing import CliRunner

from cli.app import app
from cluster.acme.kept import new_key
from cluster.config import parse_config
from cluster.errors import CommandError
from cluster.plan import Cost, against, confined, revisions
from cluster.plan.replaced import nginx_made_of, restarted
from cluster.topology import build_topology
from tests.certificates import authority
from tests.unit.pulumi_mocks import CONTAINER, SECRETS, run_main, stack_values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cluster.plan import Planned

NONE, STARTS = (Cost.NONE,), (Cost.START,)

STACK: dict[str, Any] = {
    "platform": "local",
    "app": {"project": "./shop", "settings": "shop.settings"},
    "upstream": {"servers": [{"name": "app1", "weight": 3}, {"name": "app2"}]},
    "site": {"server_names": ["localhost"], "listen": 8080},
}

#: Written by whoever imports or runs what nobody may import or run.
MARK = "import pathlib, os; pathlib.Path(os.environ.get('MARK', '/tmp/against-mark')).write_text('run')\n"

SETTINGS = """
from pathlib import Path
BASE_DIR = Path(__file__).resolve().parent.parent
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
INSTALLED_APPS = ["visits"]
"""

MIGRATION = """
from django.db import migrations, models
class Migration(migrations.Migration):
    operations = [{operation}]
"""


def git(directory: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *identity, "-c", "protocol.file.allow=always", "-C", str(directory), *words],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return done.stdout.strip()


class Project:
    """A repository with a stack and a project. root: the directory that holds `stacks`."""

    def __init__(self, top: Path, inside: str = "") -> None:
        self.top = top
        self.root = top / inside
        self.root.mkdir(parents=True, exist_ok=True)
        git(top, "init", "-q", "-b", "main")
        self.stack()
        self.write("shop/manage.py", "print('manage')\n")
        self.write("shop/requirements.txt", "django==5.2\n")
        self.write("shop/shop/__init__.py", "")
        self.write("shop/shop/settings.py", SETTINGS)
        self.write("shop/shop/wsgi.py", "application = None\n")
        self.write("shop/visits/migrations/0001_initial.py", MIGRATION.format(operation=""))
        self.commit()

    def write(self, path: str, text: str | bytes) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    def stack(self, name: str = "local", **changes: Any) -> None:
        values = {**STACK, **changes}
        document = {"config": {f"cluster:{key}": value for key, value in values.items() if value is not None}}
        self.write(f"stacks/Pulumi.{name}.yaml", yaml.safe_dump(document))

    def commit(self) -> str:
        git(self.top, "add", "-A")
        git(self.top, "commit", "-q", "--allow-empty", "-m", "c")
        return git(self.top, "rev-parse", "HEAD")

    def plans(self, revision: str = "HEAD", *stacks: str) -> list[Planned]:
        return against.plan_against(self.root, stacks, f"git:{revision}")

    def plan(self, revision: str = "HEAD") -> Planned:
        (one,) = self.plans(revision, "local")
        return one


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "repository")


@pytest.fixture(autouse=True)
def no_nginx(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a real one says is in tests/nginx/test_plan.py."""
    monkeypatch.setattr(against, "_asked_of_nginx", lambda planned, _config: planned)


def run(project: Project, *words: str) -> tuple[int, str]:
    with contextlib.chdir(project.root):
        result = CliRunner().invoke(app, ["plan", *words], catch_exceptions=False)
    return result.exit_code, result.output


# --- what is told


def test_what_is_as_it_was_is_one_line(project: Project) -> None:
    assert run(project, "--against", "git:HEAD", "--exit-code") == (0, "stack local: no changes\n")


def test_a_weight_is_told_in_nginx_s_words(project: Project) -> None:
    project.stack(upstream={"servers": [{"name": "app1", "weight": 5}, {"name": "app2"}]})
    status, output = run(project, "local", "--against", "git:main", "--exit-code")
    assert status == 2
    assert output.splitlines() == [
        "stack local: no request and no session is lost",
        "  traffic: app1 75 % -> 83.3 %, app2 25 % -> 16.7 %",
        "  nginx: one reload; no process of the app is touched by it",
        "  nginx's lines:",
        "      - server unix:…/app1/http.sock weight=3 max_fails=0;",
        "      + server unix:…/app1/http.sock weight=5 max_fails=0;",
        "  not known before:",
        "      whether main is what runs, and what was changed by hand there",
        "      the values of secrets, and what the database and the sessions hold",
    ]


def test_a_release_is_told_by_its_files_packages_settings_and_migrations(project: Project) -> None:
    project.write("shop/visits/views.py", "one\ntwo\n")
    project.write("shop/requirements.txt", "django==5.2.1\nsqlparse\n")
    operation = "migrations.RemoveField('visit', 'seen')"
    project.write("shop/visits/migrations/0002_seen.py", MIGRATION.format(operation=operation))
    project.stack(app={**STACK["app"], "threads": 7, "environment": {"A": "b"}})
    found = project.plan()
    assert found.costs == (Cost.MIGRATION,)
    assert found.steps == ("release: another one (code, requirements, settings of the app); migrations run first",)
    assert [(one.path, one.kind, one.added) for one in found.release.code] == [
        ("requirements.txt", "changed", 2),
        ("visits/migrations/0002_seen.py", "added", 4),
        ("visits/views.py", "added", 2),
    ]
    assert [(one.name, one.before, one.after) for one in found.release.requirements] == [
        ("django", "5.2", "5.2.1"),
        ("sqlparse", None, ""),
    ]
    (migration,) = found.release.migrations
    assert (migration.name, migration.unsafe) == ("visits.0002_seen", ("removes visit.seen",))
    assert {one.key for one in found.settings} == {"app.threads", "app.environment.A"}
    assert (found.release.before, found.release.after) == (None, None), "a digest is of secrets too"


def test_what_is_new_and_not_committed_counts_and_what_git_ignores_does_not(project: Project) -> None:
    project.write(".gitignore", "*.log\n/shop/cache/\n")
    project.commit()
    project.write("shop/visits/new.py", "one\n")
    project.write("shop/a.log", "x")
    project.write("shop/cache/b.py", "x")
    (project.root / "shop/shop/wsgi.py").unlink()
    assert [(one.path, one.kind) for one in project.plan().release.code] == [
        ("shop/wsgi.py", "removed"),
        ("visits/new.py", "added"),
    ]


def test_a_program_s_executable_bit_is_a_change(project: Project) -> None:
    (project.root / "shop/manage.py").chmod(0o755)
    assert [one.path for one in project.plan().release.code] == ["manage.py"]


def test_workers_that_come_go_and_change_are_told(project: Project) -> None:
    worker = {"name": "mail", "command": "celery -A shop worker"}
    project.stack(workers=[worker, {"name": "old", "command": "celery -A shop worker"}])
    project.commit()
    project.stack(workers=[{**worker, "memory": "256m"}, {"name": "new", "command": "celery -A shop worker"}])
    found = project.plan()
    assert found.steps == (
        "+ new1: start",
        "~ mail1: started again; those of before end what they are at",
        "- old1: stop, once no request or job needs it",
    )
    assert (found.costs, found.deleted) == (NONE, ("old1 is stopped",))


# --- stacks that come and go


def test_a_rule_of_the_policy_that_is_switched_off_is_a_change_that_a_reviewer_sees(project: Project) -> None:
    off = {"disable": [{"rule": "debug", "reason": "we look for a leak"}]}
    project.stack(platform="docker", policy={"production": True})
    project.commit()
    assert not project.plan().changes
    project.stack(platform="docker", policy={"production": True, **off})
    planned = project.plan()
    assert (planned.changes, planned.costs, planned.steps) == (True, (Cost.NONE,), ())
    assert planned.disabled == ("debug: we look for a leak",)
    assert [one.key for one in planned.settings] == ["policy.disable"]
    project.commit()
    assert (project.plan().changes, project.plan().disabled) == (False, planned.disabled)


def test_a_stack_that_is_new_comes_up(project: Project) -> None:
    project.stack("staging")
    old, new = project.plans()
    assert (old.stack, old.changes) == ("local", False)
    assert (new.stack, new.costs, new.steps[0]) == (
        "staging",
        STARTS,
        "a stack that HEAD has not: the first release; migrations run first",
    )


def test_a_stack_whose_file_goes_runs_on(project: Project) -> None:
    project.stack("staging")
    project.commit()
    (project.root / "stacks/Pulumi.staging.yaml").unlink()
    (found,) = project.plans("HEAD", "staging")
    assert found.costs == NONE
    assert found.steps == (
        "the stack file goes; what runs goes on, until `cluster down staging` is said with the file of HEAD",
    )


def test_a_stack_that_is_nowhere_is_an_error(project: Project) -> None:
    with pytest.raises(CommandError, match=r"stack nope is neither in HEAD nor .*; the stacks are local"):
        project.plans("HEAD", "nope")


def test_an_invalid_file_is_told_with_its_line_and_key(project: Project) -> None:
    good = (project.root / "stacks/Pulumi.local.yaml").read_text()
    file = project.write("stacks/Pulumi.local.yaml", good.replace("weight: 3", "weight: 0"))
    line = 1 + file.read_text().splitlines().index("      weight: 0")
    status, output = run(project, "--against", "git:HEAD")
    assert status == 1
    assert f"- stacks/Pulumi.local.yaml:{line}: upstream.servers[0].weight: must be at least 1, got 0" in output
    project.commit()
    project.write("stacks/Pulumi.local.yaml", good)
    status, output = run(project, "--against", "git:HEAD")
    assert status == 0
    assert output.startswith("stack local: what it costs is not known\n")
    assert "what changes: the stack file of HEAD is invalid" in output
    assert f"HEAD:stacks/Pulumi.local.yaml:{line}: upstream.servers[0].weight: must be at least 1" in output


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("config: [", "stacks/Pulumi.local.yaml: line 1, column 10: not valid YAML"),
        ("config:\n  cluster:platform: local\n", "stacks/Pulumi.local.yaml:1: app: required"),
        ("config:\n  cluster:plattform: local\n", "stacks/Pulumi.local.yaml:2: plattform: unknown key"),
        ("[]", "stacks/Pulumi.local.yaml: config: required"),
    ],
)
def test_whatever_is_wrong_with_a_file_is_told(project: Project, text: str, told: str) -> None:
    project.write("stacks/Pulumi.local.yaml", text)
    found = project.plan()
    assert any(line.startswith(told) for line in found.refused), found.refused


def test_what_a_lint_forbids_is_refused(project: Project) -> None:
    project.stack(upstream={"servers": [{"name": "app1", "down": True}]})
    found = project.plan()
    assert found.refused
    assert found.refused[0].startswith("upstream.servers: ")
    assert run(project, "--against", "git:HEAD")[0] == 1


# --- what it costs


def costs(project: Project, before: Mapping[str, Any], after: Mapping[str, Any]) -> Planned:
    project.stack(**before)
    project.commit()
    project.stack(**after)
    return project.plan()


DOCKER = {"platform": "docker", "images": {"base": "debian:trixie-slim", "nginx": "nginx:1.30"}}


SIGNED = {"self_signed": True}
HTTP3 = {**SIGNED, "http3": True, "discard_http3_requests": True}


def site(**changes: Any) -> dict[str, Any]:
    return {"site": {**STACK["site"], **changes}}


@pytest.mark.parametrize(
    ("before", "after", "cost", "words"),
    [
        (DOCKER, {**DOCKER, "images": {"nginx": "nginx:1.31"}}, Cost.NGINX_REPLACED, "nginx: replaced (images.nginx)"),
        (DOCKER, {**DOCKER, **site(listen=80)}, Cost.ADDRESS_LEFT, "nginx: replaced (site.listen)"),
        (
            {**DOCKER, **site(tls=SIGNED)},
            {**DOCKER, **site(tls=HTTP3)},
            Cost.NGINX_REPLACED,
            "nginx: replaced (site.tls.http3)",
        ),
        ({}, site(listen=8081), Cost.ADDRESS_LEFT, "nginx: one reload"),
        (
            site(tls=HTTP3),
            site(tls=HTTP3, limit="10r/s"),
            Cost.QUIC_CUT,
            "nginx: one reload; no process of the app is touched by it",
        ),
        (site(tls=SIGNED), site(tls=HTTP3), Cost.NONE, "nginx: one reload; no process of the app is touched by it"),
        (
            site(tls=HTTP3),
            site(tls=SIGNED),
            Cost.QUIC_CUT,
            "nginx: one reload; no process of the app is touched by it",
        ),
        ({}, site(limit="10r/s"), Cost.NONE, "nginx: one reload; no process of the app is touched by it"),
        (
            {**DOCKER, "broker": {"engine": "valkey"}},
            {**DOCKER, "broker": {"engine": "valkey", "memory": "512m"}},
            Cost.SERVICE_REPLACED,
            "~ broker: started again; its data stays",
        ),
        (
            {"sessions": {"engine": "cache", "memcached": {"nodes": 1}}},
            {"sessions": {"engine": "cache", "memcached": {"nodes": 1, "memory": "128m"}}},
            Cost.LOGGED_OUT,
            "~ memcached1: started again; what it holds is lost",
        ),
        (
            {"sessions": {"engine": "db"}},
            {"sessions": {"engine": "cache", "discard": True}},
            Cost.LOGGED_OUT,
            "release: another one (settings of the app); migrations run first",
        ),
        (
            {"sessions": {"engine": "file", "path": "/srv/a"}},
            {"sessions": {"engine": "file", "path": "/srv/b", "discard": True}},
            Cost.LOGGED_OUT,
            "release: another one (settings of the app); migrations run first",
        ),
        (
            {"sessions": {"engine": "cache", "memcached": {"nodes": 2}}},
            {"sessions": {"engine": "cache", "memcached": {"nodes": 3}, "discard": True}},
            Cost.LOGGED_OUT,
            "+ memcached3: start",
        ),
        (
            {**DOCKER, "database": {"engine": "sqlite"}},
            {**DOCKER, "database": {"engine": "postgres", "discard": True}},
            Cost.DATA_LEFT,
            "+ postgres: start",
        ),
        (
            {},
            {"database": {"engine": "sqlite"}},
            Cost.DATA_LEFT,
            "release: another one (settings of the app); migrations run first",
        ),
        (
            {"sessions": {"engine": "db"}},
            {"sessions": {"engine": "cached_db", "previous": "db"}},
            Cost.NONE,
            "+ memcached1, memcached2: start",
        ),
    ],
)
def test_each_cost_follows_from_the_two_files(
    project: Project, before: dict[str, Any], after: dict[str, Any], cost: Cost, words: str
) -> None:
    found = costs(project, before, after)
    assert (found.costs[0], found.refused) == (cost, ())
    assert words in found.steps, found.steps


def test_another_port_of_a_container_is_left_and_its_nginx_is_replaced(project: Project) -> None:
    found = costs(project, DOCKER, {**DOCKER, **site(listen=80)})
    assert found.costs == (Cost.ADDRESS_LEFT, Cost.NGINX_REPLACED)
    assert found.steps[-1].startswith("- http://"), found.steps
    assert found.steps[-1].endswith(": answered no more")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, {"sessions": {"engine": "cache"}}, "sessions.previous: sessions are in db now"),
        (
            {"database": {"engine": "sqlite"}},
            {},
            "database: the data is in sqlite the platform's own file now",
        ),
        (
            {"sessions": {"engine": "file", "path": "/srv/a"}},
            {"sessions": {"engine": "file", "path": "/srv/b"}},
            "sessions.path: sessions are in /srv/a now",
        ),
    ],
)
def test_what_up_would_refuse_is_refused(
    project: Project, before: dict[str, Any], after: dict[str, Any], told: str
) -> None:
    assert any(line.startswith(told) for line in costs(project, before, after).refused)


def test_another_file_of_the_project_s_own_sqlite_leaves_the_data(project: Project) -> None:
    project.write("shop/shop/settings.py", SETTINGS.replace("db.sqlite3", "other.sqlite3"))
    assert project.plan().costs == (Cost.DATA_LEFT,)


def test_another_platform_is_another_cluster(project: Project) -> None:
    found = costs(project, {}, DOCKER)
    assert found.costs == STARTS
    assert found.steps[0].startswith("platform: local -> docker: another cluster comes up")


HOST = {"name": "web1", "address": "10.0.0.1", "host_key": "ssh-ed25519 AAAA"}
REMOTE = {"platform": "remote", "hosts": [HOST]}


@pytest.mark.parametrize(
    ("hosts", "cost", "steps"),
    [
        ([{**HOST, "address": "web1.example.com"}], Cost.NONE, ()),
        (
            [{**HOST, "host_key": "ssh-ed25519 BBBB"}],
            Cost.DATA_LEFT,
            ("+ host web1", "- host web1: what it keeps stays there, and is not seen any more"),
        ),
    ],
)
def test_a_host_is_known_by_its_key(
    project: Project, hosts: list[dict[str, Any]], cost: Cost, steps: tuple[str, ...]
) -> None:
    found = costs(project, REMOTE, {**REMOTE, "hosts": hosts})
    assert (found.changes, found.costs, found.steps) == (True, (cost,), steps)
    assert found.settings


def test_on_hosts_nginx_s_lines_are_those_of_a_site_s_own_file(project: Project) -> None:
    servers = [{"name": "app1", "weight": 9}, {"name": "app2"}]
    snippets = {"http": "geo $a {\n    default 1;\n}\n"}
    after = {**REMOTE, "upstream": {"servers": servers}, **site(snippets=snippets)}
    lines = costs(project, REMOTE, after).nginx
    assert "+ server unix:…/app1/http.sock weight=9 max_fails=0;" in lines
    assert "+ include /srv/cluster/nginx/snippets/http.conf;" in lines
    assert lines[-3:] == ("+ geo $a {", "+     default 1;", "+ }")
    assert not [line for line in lines if "nginx.conf" in line]


def test_secrets_are_told_by_name_and_what_is_encrypted_is_not_known(project: Project) -> None:
    before = {"secret_key": {"secure": "v1:aaaa"}, "database_url": {"secure": "v1:cccc"}}
    after = {"secret_key": {"secure": "v1:bbbb"}, "secret_environment": {"secure": "v1:dddd"}}
    found = costs(project, before, after)
    assert [(one.name, one.kind) for one in found.release.secrets] == [
        ("database_url", "removed"),
        ("secret_environment", "added"),
    ]
    assert "whether secret_key changes: another text is encrypted" in found.unknown
    status, output = run(project, "--against", "git:HEAD", "--json")
    assert status == 0
    assert json.loads(output)["plans"][0]["release"]["secrets"]
    assert not [word for word in ("aaaa", "bbbb", "cccc", "dddd") if word in output]


VARIANTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a weight": {"upstream": {"servers": [{"name": "app1", "weight": 9}, {"name": "app2"}]}},
    "an instance more": {"upstream": {"servers": 5}},
    "an image of nginx": {"images": {"nginx": "nginx:1.31"}},
    "another base": {"images": {"base": "debian:forky-slim"}},
    "a base as of a time": {"images": {"as_of": "2026-11-01T00:00Z"}},
    "an image of memcached": {"images": {"memcached": "debian:forky-slim"}},
    "another port": {"site": {"listen": 8099}},
    "other ports of instances": {"site": {"instance_ports": 9100}},
    "https": {"site": {"tls": {"self_signed": True}}},
    "a certificate by acme": {"site": {"server_names": ["example.com"], "tls": {"acme": {}}}},
    "another name": {"site": {"server_names": ["localhost", "shop.example.com"]}},
    "a snippet": {"site": {"snippets": {"server": "add_header X-A b;"}}},
    "a size": {"site": {"client_max_body_size": "20m"}},
    "a limit": {"site": {"limit": "10r/s"}},
    "redirects": {"site": {"redirects": {"/a": "/b"}}},
    "threads": {"app": {"threads": 9}},
}


#: As they are before each variant.
BROKER = {"broker": {"engine": "valkey"}}
SERVICES = ("memcached1", "postgres", "broker")

OF_SERVICES: dict[str, dict[str, Any]] = {
    "the sessions' memory": {"sessions": {"memcached": {"nodes": 2, "memory": "128m"}}},
    "a node more": {"sessions": {"memcached": {"nodes": 3, "memory": "64m"}}},
    "the broker's memory": {"broker": {"memory": "512m"}},
    "an image of postgres": {"images": {"postgres": "debian:forky-slim"}},
}


def containers(root: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    keys = {"tls_authority": authority(), "acme_account": new_key()}
    record = run_main(root, values, secrets={**SECRETS, **keys})
    return {name: record.named(name, CONTAINER).inputs for name in ("nginx", *SERVICES)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The containers of the stack that the variants differ from."""
    return containers(tmp_path_factory.mktemp("plain"), stack_values(**BROKER))


@pytest.mark.parametrize("name", [*VARIANTS, *OF_SERVICES])
def test_the_table_of_what_is_made_anew_is_what_docker_does(
    tmp_path: Path, plain: Mapping[str, Any], name: str
) -> None:
    changes = {**VARIANTS, **OF_SERVICES}[name]
    changes = {
        **BROKER,
        **changes,
        **({"broker": {**BROKER["broker"], **changes["broker"]}} if "broker" in changes else {}),
    }
    values = stack_values(**changes)
    old, new = (build_topology(parse_config(one)) for one in (stack_values(**BROKER), values))
    told = {one.name for one in restarted(old, new)} & set(SERVICES)
    told |= {"nginx"} if nginx_made_of(old) != nginx_made_of(new) else set()
    made = containers(tmp_path, values)
    assert told == {service for service, inputs in made.items() if inputs != plain[service]}


# --- git


def test_whatever_git_knows_is_a_revision(project: Project) -> None:
    first = git(project.top, "rev-parse", "HEAD")
    git(project.top, "tag", "-a", "v1", "-m", "v1")
    project.write("shop/visits/views.py", "one\n")
    project.commit()
    for revision in (first, first[:12], "HEAD~1", "v1", "main~1", "HEAD^", "HEAD@{1}"):
        assert [one.path for one in project.plan(revision).release.code] == ["visits/views.py"]


def test_a_detached_head_and_a_branch_of_the_server_s(project: Project, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(project.top), str(clone))
    git(clone, "checkout", "-q", "--detach")
    git(clone, "branch", "-D", "main")
    root = clone
    (root / "shop/new.py").write_text("x\n")
    (found,) = against.plan_against(root, [], "git:origin/main")
    assert [one.path for one in found.release.code] == ["new.py"]
    with pytest.raises(CommandError, match="git knows no revision main here; say --against git:origin/main"):
        against.plan_against(root, [], "git:main")


def test_a_shallow_clone_without_the_revision_says_git_fetch(project: Project, tmp_path: Path) -> None:
    first = git(project.top, "rev-parse", "HEAD")
    project.commit()
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{project.top}", "clone")
    with pytest.raises(CommandError, match=r"this clone is shallow: say `git fetch --depth=1 origin"):
        against.plan_against(tmp_path / "clone", [], f"git:{first}")


@pytest.mark.parametrize("revision", ["-h", "--output=x", "", "main\nHEAD", "nope", "main..HEAD", "HEAD:stacks"])
def test_what_is_no_revision_is_refused_and_is_no_option(project: Project, revision: str) -> None:
    before = sorted(project.top.iterdir())
    with pytest.raises(CommandError, match=r"^--against: "):
        project.plans(revision)
    assert sorted(project.top.iterdir()) == before


def test_only_git_is_known(project: Project) -> None:
    with pytest.raises(CommandError, match="--against main: say git: and a revision, for example git:main"):
        against.plan_against(project.root, [], "main")


def test_without_git_or_a_repository_it_says_so(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(project.root, plain, ignore=shutil.ignore_patterns(".git"))
    with pytest.raises(CommandError, match="is in the working tree of no git repository"):
        against.plan_against(plain, [], "git:HEAD")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match="git is not installed: apt-get install"):
        project.plans()


def test_a_repository_that_has_the_stacks_in_a_directory_of_its_own(tmp_path: Path) -> None:
    project = Project(tmp_path / "mono", "services/shop")
    (project.top / "lib").mkdir()
    (project.top / "lib/pyproject.toml").write_text('[project]\nname = "lib"\nversion = "1"\n')
    project.write("shop/requirements.txt", "django==5.2\n-e ../../../lib\n")
    project.commit()
    assert not project.plan().changes
    (project.top / "lib/lib.py").write_text("x\n")
    (project.top / "elsewhere.py").write_text("x\n")
    project.write("shop/a.py", "x\n")
    found = project.plan()
    assert found.release.parts == ("code", "local packages above the project")
    assert [one.path for one in found.release.code] == ["a.py"]


def test_a_working_tree_beside_the_first_is_compared_as_it_is(project: Project, tmp_path: Path) -> None:
    git(project.top, "worktree", "add", "-q", "-b", "other", str(tmp_path / "other"))
    (tmp_path / "other/shop/b.py").write_text("x\n")
    (found,) = against.plan_against(tmp_path / "other", [], "git:main")
    assert [one.path for one in found.release.code] == ["b.py"]


def test_a_project_s_directory_with_another_name_is_a_setting(project: Project) -> None:
    (project.root / "shop").rename(project.root / "store")
    project.stack(app={**STACK["app"], "project": "./store"})
    found = project.plan()
    assert [(one.key, one.before, one.after) for one in found.settings] == [("app.project", '"./shop"', '"./store"')]
    assert found.release.code == ()
    assert found.release.parts == ("settings of the app",)


def test_a_submodule_is_another_repository_of_which_the_commit_is_told(project: Project, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q", "-b", "main")
    (other / "a.py").write_text("x\n")
    git(other, "add", "-A")
    git(other, "commit", "-q", "-m", "c")
    git(project.top, "submodule", "--quiet", "add", str(other), "shop/lib")
    project.commit()
    assert not project.plan().changes
    (project.root / "shop/lib/a.py").write_text("y\n")
    git(project.root / "shop/lib", "commit", "-q", "-a", "-m", "c")
    git(project.top, "add", "-A")
    found = project.plan()
    assert [(one.path, one.kind, one.added) for one in found.release.code] == [("lib", "changed", None)]
    assert "what of the submodules' code changes: it is another repository's" in found.unknown


def test_what_a_sparse_checkout_leaves_out_is_not_removed(project: Project) -> None:
    project.write("shop/large/data.py", "x\n")
    project.commit()
    git(project.top, "sparse-checkout", "set", "--no-cone", "/*", "!/shop/large/")
    assert not (project.root / "shop/large/data.py").exists()
    assert not project.plan().changes


def test_a_file_that_git_lfs_keeps_is_the_same_where_it_is_that_file(project: Project) -> None:
    content = b"0" * 5000
    digest = hashlib.sha256(content).hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 5000\n"
    project.write("shop/static/large.bin", pointer)
    project.commit()
    project.write("shop/static/large.bin", content)
    assert not project.plan().changes
    project.write("shop/static/large.bin", content + b"1")
    assert [one.path for one in project.plan().release.code] == ["static/large.bin"]


def test_a_repository_that_is_too_large_is_refused(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "MOST_FILES", 3)
    with pytest.raises(CommandError, match="too much to compare"):
        project.plans()


# --- who proposes a change is hostile


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mark"
    monkeypatch.setenv("MARK", str(path))
    return path


def test_no_code_of_either_state_is_run(project: Project, mark: Path) -> None:
    hostile = (
        *("shop/manage.py", "shop/shop/__init__.py", "shop/shop/settings.py", "shop/setup.py", "shop/conftest.py"),
        *("shop/visits/migrations/0002_x.py", "shop/sitecustomize.py", "shop/uv.py", "shop/yaml.py"),
    )
    for path in hostile:
        project.write(path, MARK + SETTINGS)
    project.commit()
    for path in hostile:
        project.write(path, MARK + SETTINGS + "X = 1\n")
    imported = {name for name in sys.modules if str(project.top) in str(getattr(sys.modules[name], "__file__", ""))}
    assert len(project.plan().release.code) == len(hostile)
    assert (mark.exists(), imported) == (False, set())
    subprocess.run([sys.executable, project.root / "shop/setup.py"], check=True)
    assert mark.exists(), "the saboteur: whoever runs it leaves a mark"


def test_no_hook_filter_textconv_or_monitor_of_the_repository_is_run(project: Project, mark: Path) -> None:
    program = project.write("evil", f"#!/bin/sh\ntouch {mark}\ncat\n")
    program.chmod(0o755)
    project.write(".gitattributes", "* filter=evil diff=evil text=auto\n")
    project.commit()
    for name in ("post-checkout", "post-index-change", "pre-commit", "reference-transaction", "fsmonitor-watchman"):
        (project.top / ".git/hooks").mkdir(exist_ok=True)
        shutil.copy(program, project.top / f".git/hooks/{name}")
    for key in ("filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "diff.evil.textconv"):
        git(project.top, "config", key, str(program))
    for key in ("core.fsmonitor", "core.pager", "core.sshCommand", "diff.external", "core.askPass"):
        git(project.top, "config", key, str(program))
    mark.unlink(missing_ok=True)
    project.write("shop/visits/views.py", "one\n")
    assert [one.path for one in project.plan().release.code] == ["visits/views.py"]
    assert not mark.exists()
    with contextlib.suppress(subprocess.CalledProcessError):
        git(project.top, "archive", "--output", os.devnull, "HEAD")
    assert mark.exists(), "the saboteur: `git archive` runs the filter"


def test_a_link_that_leads_out_is_not_followed(project: Project, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("token-of-somebody==1.0\n")
    for path in ("shop/requirements.txt", "stacks/Pulumi.evil.yaml", "shop/inner", "shop/visits/a.py"):
        file = project.root / path
        file.unlink(missing_ok=True)
        file.symlink_to(secret)
    (project.root / "shop/twice").symlink_to("inner/../inner")
    (project.root / "shop/git").symlink_to("../.git/config")
    (project.root / "shop/good.py").symlink_to("manage.py")
    for revision in ("HEAD", project.commit()):
        local = next(one for one in project.plans(revision) if one.stack == "local")
        text = repr(project.plans(revision))
        assert "token-of-somebody" not in text
        assert "evil" not in [one.stack for one in project.plans(revision)]
        assert local.refused, "without its requirements no release can be made"
    git(project.top, "checkout", "-q", "HEAD~1", "--", "shop/requirements.txt")
    assert (
        "of HEAD: shop/inner: a link that leads out of the repository, which nobody follows" in project.plan().unknown
    )


def test_the_files_of_a_directory_that_became_a_link_are_not_read(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.move(project.root / "shop/visits", outside)
    (project.root / "shop/visits").symlink_to(outside)
    found = project.plan()
    assert ("visits/migrations/0001_initial.py", "removed") in [(one.path, one.kind) for one in found.release.code]


@pytest.mark.parametrize(
    "line",
    [
        "-r {secret}",
        "-r ../../secret",
        "-c file://{secret}",
        "-e ${{TOKEN}}",
        "x @ file:${{TOKEN}}/y",
        "-e ~/x",
        "-f /",
    ],
)
def test_requirements_name_nothing_of_the_machine(
    project: Project, tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("token-of-somebody==1.0\n")
    monkeypatch.setenv("TOKEN", "/token-of-somebody")
    project.write("shop/requirements.txt", "django\n" + line.format(secret=secret) + "\n")
    status, output = run(project, "--against", "git:HEAD", "--json")
    assert status in (0, 1)
    assert "token-of-somebody" not in output
    assert str(Path.home()) not in output


@pytest.mark.parametrize("path", ["../outside", "/etc", "shop/../../outside"])
def test_a_project_outside_of_the_repository_is_not_read(project: Project, tmp_path: Path, path: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "manage.py").write_text("")
    project.stack(app={"project": path, "settings": "a"})
    found = project.plan()
    (refused,) = found.refused
    assert refused.startswith(f"stacks/Pulumi.local.yaml: app.project: {path} lies outside of the repository")


def test_what_a_stack_includes_from_outside_is_not_read(project: Project, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/token-of-somebody").write_text("x")
    project.stack(app={**STACK["app"], "include": ["../../../outside", "../../.."]})
    assert "token-of-somebody" not in repr(project.plan())


def test_what_lies_elsewhere_is_not_there_while_it_is_read(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for path in (inside, outside):
        path.mkdir()
        (path / "a").write_text("a")
    (inside / "link").symlink_to(outside / "a")
    refused: list[Callable[[], object]] = [
        (outside / "a").read_text,
        (inside / "link").read_text,
        (inside / "../outside/a").read_text,
        lambda: list(outside.iterdir()),
        partial(os.scandir, outside),
        lambda: (inside / "b").write_text("b"),
        (inside / "a").unlink,
        lambda: subprocess.run(["true"], check=False),
        lambda: os.system("true"),
        lambda: socket.create_connection(("127.0.0.1", 1)),
    ]
    with confined.confined(inside):
        assert (inside / "a").read_text() == "a"
        assert dict(os.environ) == {"PATH": "/nonexistent", "HOME": "/nonexistent"}
        for one in refused:
            with pytest.raises(FileNotFoundError):
                one()
    assert (outside / "a").read_text() == "a"
    assert "PATH" in os.environ


def test_a_tree_with_paths_that_lead_elsewhere_is_not_written(project: Project, tmp_path: Path) -> None:
    def stored(kind: str, content: bytes) -> bytes:
        command = ["git", "-C", str(project.top), "hash-object", "--literally", "-t", kind, "-w", "--stdin"]
        return bytes.fromhex(subprocess.run(command, input=content, capture_output=True, check=True).stdout.decode())

    blob = stored("blob", b"x")
    above = stored("tree", b"100644 outside\0" + blob)
    tree = stored("tree", b"40000 ..\0" + above + b"40000 .git\0" + above + b"100644 a\0" + blob)
    copy = tmp_path / "copy" / "inside"
    commit = git(project.top, "commit-tree", tree.hex(), "-m", "evil")
    found = revisions.Repository(project.root).at(commit, "evil", copy)
    assert sorted(path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*")) == [
        "inside",
        "inside/a",
    ]
    assert len(found.unfit) == 2


def test_nothing_of_the_repository_is_changed(project: Project) -> None:
    def state() -> dict[str, tuple[int, ...]]:
        return {
            str(path): (found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns)
            for path in project.top.rglob("*")
            if (found := path.lstat())
        }

    project.write("shop/a.py", "x\n")
    os.utime(project.root / "shop/manage.py")  # a command that refreshes the index would write it
    before = state()
    assert project.plan().changes
    assert state() == before
    git(project.top, "status")
    assert state() != before, "the saboteur: git itself writes its index"


def test_what_is_copied_lies_in_memory_where_there_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(revisions, "MEMORY", tmp_path)
    assert revisions.scratch(1) == tmp_path
    assert revisions.scratch(2**60) is None
    monkeypatch.setattr(revisions, "MEMORY", tmp_path / "nowhere")
    assert revisions.scratch(1) is None
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr(revisions, "MEMORY", tmp_path)
    assert revisions.scratch(1) is None, "whoever names a directory gets it"


def test_no_name_of_a_file_can_be_taken_for_a_line_of_the_plan(project: Project) -> None:
    project.write("shop/a\nstack local: no changes\x1b[31m\r.py", "x\n")
    file = os.fsdecode(os.fsencode(project.root) + b"/shop/\xff.py")
    Path(file).write_text("x\n")
    for form in ("--text", "--markdown", "--json"):
        status, output = run(project, "--against", "git:HEAD", form)
        assert status == 0
        assert [line for line in output.splitlines() if line.startswith("stack local: no changes")] == []
        assert "\x1b" not in output


def test_what_is_left_out_a_thousand_times_is_told_ten_times(project: Project) -> None:
    for number in range(1000):
        (project.root / f"shop/link{number}").symlink_to("/etc/passwd")
    assert len(run(project, "--against", "git:HEAD")[1].splitlines()) < 20


def test_a_partial_clone_without_the_files_fetches_nothing(project: Project, tmp_path: Path) -> None:
    first = git(project.top, "rev-parse", "HEAD")
    project.write("shop/manage.py", "another\n")
    project.commit()
    git(project.top, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--filter=blob:none", f"file://{project.top}", "clone")
    with pytest.raises(CommandError, match=r"is not whole here \(shop/manage.py is missing: a partial clone\?\)"):
        against.plan_against(tmp_path / "clone", [], f"git:{first}")
    git(tmp_path / "clone", "cat-file", "-p", f"{first}:shop/manage.py")  # as git itself would: it fetches
    assert against.plan_against(tmp_path / "clone", [], f"git:{first}")[0].release.code
