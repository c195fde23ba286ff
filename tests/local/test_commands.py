"""What each command prints, does, and ends with; what is kept, who runs what, and where secrets are not."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import resource
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from cluster_runtime.instance_link import LONGEST_SOCKET_PATH
from platforms.local.listeners import with_children
from tests import processes
from tests.clients import NO_TLS
from tests.conformance import servers, wait_until
from tests.load import Load
from tests.local.stand import ROOT, Stand
from tests.trees import below, files_with

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.local.stand import Result

#: Values of secrets, to be looked for wherever they must not be.
SECRET_ENVIRONMENT = {"API_TOKEN": "a-token-that-nobody-may-see"}
FALLBACKS = ["a-former-key-that-nobody-may-see"]


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with contextlib.closing(Stand()) as stand:
        stand.paths.secrets.mkdir(parents=True, mode=0o700)
        for name, value in (("secret_environment", SECRET_ENVIRONMENT), ("secret_key_fallbacks", FALLBACKS)):
            path = stand.paths.secrets / name
            path.write_text(json.dumps(value))
            path.chmod(0o600)
        assert_done(stand.up())
        yield stand


def assert_done(result: Result) -> str:
    assert result.status == 0, result.output
    assert "Traceback" not in result.output, result.output
    return result.output


def assert_refused(result: Result, message: str) -> None:
    assert result.status == 1, result.output
    assert message in result.output, result.output
    assert "Traceback" not in result.output, result.output


def get(stand: Stand, path: str, client: httpx.Client | None = None) -> httpx.Response:
    headers = {"Host": "cluster"}
    with contextlib.nullcontext(client) if client else httpx.Client(trust_env=False, verify=NO_TLS) as asked:
        return asked.get(f"http://127.0.0.1:{stand.port}{path}", headers=headers)


# --- looking


def test_status_is_a_line_for_each_instance_and_one_for_the_rest(stand: Stand) -> None:
    output = assert_done(stand.run("status", stand.name))
    for name, share in (("app1", "75 %"), ("app2", "25 %")):
        assert re.search(rf"^{name} +{share} +{stand.release()} +serving +[-\d]+ [:\d]+ +\d+ *$", output, re.MULTILINE)
    assert "nginx: current; sessions: cached_db; release: " in output
    assert "\x1b" not in output, "colour without a terminal"


def test_status_is_json_for_a_program(stand: Stand) -> None:
    found = json.loads(assert_done(stand.run("status", stand.name, "--json")))
    assert (found["stack"], found["ok"], found["url"]) == (stand.name, True, f"http://cluster:{stand.port}/")
    assert found["nginx"]["digest"] == stand.nginx_digest()
    assert [(row["instance"], row["share"]) for row in found["instances"]] == [("app1", 0.75), ("app2", 0.25)]
    assert {row["release"] for row in found["instances"]} == {found["release"]}


def test_status_and_verify_fail_while_an_instance_is_dead(stand: Stand) -> None:
    with stopped(stand, "app2"):
        result = stand.run("status", stand.name)
        assert result.status == 1
        assert re.search(r"^app2 .* exited|^app2 .* stopped", result.output, re.MULTILINE), result.output
        result = stand.run("verify", stand.name)
        assert result.status == 1
        assert re.search(r"failed +app2 answers", result.output), result.output
        found = json.loads(stand.run("verify", stand.name, "--json").output)
        failed = {check["name"] for check in found["checks"] if check["ok"] is False}
        assert (found["ok"], "app2 answers" in failed) == (False, True)
        assert get(stand, "/whoami").status_code == 200
    assert_done(stand.run("verify", stand.name))


@contextlib.contextmanager
def stopped(stand: Stand, instance: str) -> Iterator[None]:
    """Stop an instance so that nobody starts it again; then let `up` notice."""
    program = next(iter(stand.processes(instance)))
    stand.supervisor().stop([program])
    yield
    output = assert_done(stand.up())
    assert f"+ {instance}: start release" in output


def test_verify_is_json_for_a_program(stand: Stand) -> None:
    found = json.loads(assert_done(stand.run("verify", stand.name, "--json")))
    assert found["ok"] is True
    names = [check["name"] for check in found["checks"]]
    for name in ("page /", "app1 answers", "share of app2", "a session on every instance"):
        assert name in names
    print(f"{len(names)} checks: {', '.join(names)}")


def test_logs_are_those_that_were_asked_for(stand: Stand) -> None:
    release = stand.release()
    get(stand, "/whoami?asked-for-the-log")
    access = stand.paths.logs / "access.log"
    wait_until(lambda: "asked-for-the-log" in access.read_text(), "the access log has the request")
    assert "asked-for-the-log" in assert_done(stand.run("logs", stand.name, "access"))
    everything = assert_done(stand.run("logs", stand.name))
    for name in (f"app1-{release}", f"app2-{release}", "access", "supervisord"):
        assert re.search(rf"^{name} +\| .", everything, re.MULTILINE), everything
    written = {path.stem for path in stand.paths.logs.glob("*.log") if path.stat().st_size}
    assert set(re.findall(r"^(\S+) +\| ", everything, re.MULTILINE)) == written
    one = assert_done(stand.run("logs", stand.name, "app1", "-n", "1"))
    last = (stand.paths.logs / f"app1-{release}.log").read_text().splitlines()[-1]
    assert one == f"app1-{release} | {last}\n"
    of_nginx = assert_done(stand.run("logs", stand.name, "nginx", "-n", "1000"))
    assert set(re.findall(r"^(\w+) +\| ", of_nginx, re.MULTILINE)) == written & {"access", "error", "nginx"}
    assert_refused(stand.run("logs", stand.name, "app9"), "no such log")


def test_manage_runs_in_the_serving_release_and_passes_its_exit_status_on(stand: Stand) -> None:
    output = assert_done(stand.run("manage", stand.name, "--", "diffsettings"))
    assert re.search(r"^DEBUG = False|^SESSION_ENGINE = ", output, re.MULTILINE)
    assert stand.run("manage", stand.name, "--", "shell", "-c", "raise SystemExit(7)").status == 7
    result = stand.run("manage", stand.name, "--", "no_such_command")
    assert (result.status, "Unknown command: 'no_such_command'" in result.output) == (1, True), result.output


def test_lint_is_a_line_or_an_object_for_each_finding(stand: Stand) -> None:
    servers(stand.stack)["app2"]["backup"] = True
    stand.edit_stack(lambda stack: stack["upstream"].update(method="ip_hash"))
    try:
        result = stand.run("lint", stand.name)
        assert (result.status, "error: upstream.servers[1].backup: " in result.output) == (1, True), result.output
        result = stand.run("lint", stand.name, "--json")
        (error,) = [finding for finding in json.loads(result.output) if finding["severity"] == "error"]
        assert (result.status, error["id"], error["path"]) == (1, "backup-with-hash", "upstream.servers[1].backup")
        assert all(error[key] for key in ("why", "remedy"))
    finally:
        servers(stand.stack)["app2"].pop("backup")
        stand.edit_stack(lambda stack: stack["upstream"].pop("method"))
    assert stand.run("lint", stand.name).status == 0


def test_render_prints_writes_and_draws(stand: Stand, tmp_path: Path) -> None:
    printed = assert_done(stand.run("render", stand.name))
    assert "# nginx.conf\n" in printed
    assert re.search(r"server unix:\S+/app1/http\.sock weight=3", printed)
    assert_done(stand.run("render", stand.name, "--output", str(tmp_path / "files")))
    written = {str(path.relative_to(tmp_path / "files")) for path in (tmp_path / "files").rglob("*") if path.is_file()}
    assert {"nginx.conf", "sites-available/cluster"} <= written
    assert ET.fromstring(assert_done(stand.run("render", stand.name, "--diagram"))).tag.endswith("svg")
    assert_done(stand.run("render", stand.name, "--diagram", "--output", str(tmp_path / "drawn")))
    assert ET.parse(tmp_path / "drawn" / "cluster.svg").getroot().tag.endswith("svg")


COMMANDS = (
    "init",
    "plan",
    "up",
    "down",
    "status",
    "verify",
    "lint",
    "render",
    "logs",
    "manage",
    "rollback",
    "maintenance",
)


@pytest.mark.parametrize("command", [*COMMANDS, ""])
def test_every_command_explains_itself(stand: Stand, command: str) -> None:
    output = assert_done(stand.run(*([command] if command else []), "--help"))
    assert re.search(r"Usage: .*cluster", output), output
    assert len(output.splitlines()) > 5


def test_an_unknown_stack_is_told_which_there_are(stand: Stand) -> None:
    for command in ("up", "status", "down", "verify", "rollback", "lint", "render"):
        assert_refused(
            stand.run(command, "nowhere"),
            "stacks/Pulumi.nowhere.yaml: nowhere: no such file; the stacks here are t; "
            "`cluster init nowhere --project DIR` makes one",
        )


def test_outside_of_a_repository_one_is_told_to_go_there(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}"}
    command = [sys.executable, "-m", "cluster", "status"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "no directory stacks here or above: run this in the repository\n"


# --- up without changes


def test_up_without_changes_is_quick_and_touches_nothing(stand: Stand) -> None:
    before = written(stand)
    seconds = []
    stand.forks = False  # the process that forks commands is not waited for, and its time not counted
    try:
        for _ in range(3):
            began = cpu_of_children()
            assert "no changes" in assert_done(stand.up())
            seconds.append(cpu_of_children() - began)
    finally:
        stand.forks = True
    assert min(seconds) > 0.05, "no command was counted"
    assert written(stand) == before
    print(f"up without changes: {', '.join(f'{s:.2f} s' for s in seconds)} of CPU; {len(before)} files untouched")
    assert min(seconds) < 2


def cpu_of_children() -> float:
    """Return the seconds of CPU that commands have taken: on a busy machine they wait for it, and take no more."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def written(stand: Stand) -> dict[str, int]:
    """Return when each file was written last: releases and their environments, nginx's and Supervisor's files."""
    paths = stand.paths
    roots = (paths.releases, paths.environments, paths.nginx, paths.static, paths.supervisor, paths.secrets)
    files = [paths.history, *(path for root in roots for path in (root, *root.rglob("*")))]
    return {str(path): path.lstat().st_mtime_ns for path in files}


# --- secrets


def test_secrets_are_nowhere_but_in_files_of_those_who_read_them(stand: Stand) -> None:
    get(stand, "/whoami")
    key = (stand.paths.secrets / "secret_key").read_text()
    values = [key, *SECRET_ENVIRONMENT.values(), *FALLBACKS]
    assert all(len(value) > 20 for value in values)
    processes = dumped(stand)
    assert len(processes) >= 10
    holding = files_with(stand.paths.state, *values)
    print(f"{len(values)} secrets looked for in {len(processes)} processes; {len(holding)} files hold them")
    assert holding
    for path in holding:
        assert path.parent.name == "secrets", path
        assert stat.S_IMODE(path.stat().st_mode) in (0o400, 0o600), path
        assert stat.S_IMODE(path.parent.stat().st_mode) in (0o700, 0o710), path
    for what, content in processes.items():
        assert not [value for value in values if value.encode() in content], what
    output = stand.run("status", stand.name).output + stand.run("logs", stand.name, "-n", "10000").output
    output += stand.run("render", stand.name).output + stand.run("up", stand.name).output
    assert not [value for value in values if value in output]


def dumped(stand: Stand) -> dict[str, bytes]:
    """Return the arguments and the environment of every process of the stack."""
    kept = {process.pid for process in stand.supervisor().processes().values()}
    supervisor = int((stand.paths.run / "supervisord.pid").read_text())
    found = {}
    for pid in with_children(kept | {supervisor}):
        with contextlib.suppress(FileNotFoundError):
            for what in ("cmdline", "environ"):
                found[f"{pid} {what}"] = Path(f"/proc/{pid}/{what}").read_bytes()
    return found


def test_what_a_session_holds_is_for_nobody_else_to_read(stand: Stand) -> None:
    tops = (stand.paths.data, stand.paths.run)
    modes = {path: stat.S_IMODE(found.st_mode) for top in tops for path, found in below(top)}
    inside = [path for path in modes if path not in tops]
    assert inside
    modes |= {top.parent: stat.S_IMODE(top.parent.stat().st_mode) for top in tops}
    for path in inside:
        assert any(modes[one] & 0o007 == 0 for one in (path, path.parent, path.parent.parent)), path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_the_instances_of_root_run_as_an_unprivileged_user(stand: Stand) -> None:
    wanted = pwd.getpwnam("www-data").pw_uid
    processes = stand.supervisor().processes()
    users = {name: uid_of(process.pid) for name, process in processes.items()}
    assert {uid for name, uid in users.items() if name not in {"nginx", "watch"}} == {wanted}
    workers = with_children({processes["nginx"].pid}) - {processes["nginx"].pid}
    assert {uid_of(pid) for pid in workers} == {wanted}
    print(f"{len(users) - 1} programs and {len(workers)} nginx workers run as www-data")


def uid_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


# --- releases


def test_three_releases_are_kept_and_environments_while_one_needs_them(stand: Stand) -> None:
    environments = {path.name for path in stand.paths.environments.iterdir()}
    assert len(environments) == 1
    releases = [stand.release()]
    app2 = stand.stack["upstream"]["servers"].pop()  # six releases: of one instance
    for number in range(3):
        stand.edit_code("visits/apps.py", f"# release {number}\n")
        assert "making the environment" not in assert_done(stand.up()), "the requirements are the same"
        releases.append(stand.release())
    assert {path.name for path in stand.paths.releases.iterdir()} == set(releases[-3:])
    assert stand.status()["releases"] == releases[-3:]
    stand.edit_code("requirements.txt", "# another environment\n")
    assert "making the environment" in assert_done(stand.up())
    assert len(list(stand.paths.environments.iterdir())) == 2
    for number in range(2):
        stand.edit_code("visits/apps.py", f"# release {number} of the new environment\n")
        assert_done(stand.up())
    (left,) = stand.paths.environments.iterdir()
    assert left.name not in environments
    stand.edit_stack(lambda stack: stack["upstream"]["servers"].append(app2))
    assert_done(stand.up())


def test_rollback_goes_to_the_release_before_and_up_comes_back(stand: Stand) -> None:
    *_, former, current = stand.status()["releases"]
    with Load(stand.address, clients=3, slow=2, slow_seconds=0.2) as load:
        output = assert_done(stand.rollback())
        assert f"release {former} serves" in output
        assert stand.status()["release"] == former
        unknown = "0123456789ab"
        assert_refused(stand.run("rollback", stand.name, "--to", unknown), f"release {unknown} is not here; known: ")
        assert f"release {former} -> {current}" in assert_done(stand.up())
        assert_done(stand.run("rollback", stand.name, "--to", former))
        assert_done(stand.up())
    print(load.counts)
    assert (load.counts.failed, load.counts.lost, load.counts.cut) == ([], [], 0)
    assert stand.release() == current


# --- down


def test_down_keeps_the_data_and_deletes_it_only_when_told_twice(stand: Stand) -> None:
    with httpx.Client(trust_env=False, verify=NO_TLS) as client:
        assert get(stand, "/whoami", client).json()["visits"] == 1
        get(stand, "/form", client)
        form = {"csrfmiddlewaretoken": client.cookies["csrftoken"], "text": "kept over night"}
        url = f"http://127.0.0.1:{stand.port}/form"
        assert client.post(url, data=form, headers={"Host": "cluster"}).status_code == 200
        pids = with_children({process.pid for process in stand.supervisor().processes().values()})
        # With when each began: ids come round, and are threads' as well.
        lived = {pid: processes.stat(pid)[19] for pid in pids if processes.lives(pid)}
        output = assert_done(stand.down())
        what = f"the database, sessions, uploads, secrets and releases in {stand.paths.state}"
        assert f"stack t is down; what stays: {what}" in output
        assert not [pid for pid, began in lived.items() if processes.lives(pid) and processes.stat(pid)[19] == began]
        with socket.socket() as refused:
            assert refused.connect_ex(stand.address) != 0
        assert stand.run("status", stand.name).status == 1
        assert json.loads(stand.run("status", stand.name, "--json").output)["ok"] is False
        assert_refused(stand.run("verify", stand.name), "stack t is not up; `cluster up t` starts it")
        assert_done(stand.down())
        assert_done(stand.up())
        assert get(stand, "/whoami", client).json()["visits"] == 2, "the session is lost"
        assert "kept over night" in get(stand, "/form", client).text
    message = "--delete-data asks first; without a terminal say --yes as well"
    assert_refused(stand.run("down", stand.name, "--delete-data"), message)
    assert stand.status()["ok"], "nothing was stopped"
    assert "its data is deleted" in assert_done(stand.run("down", stand.name, "--delete-data", "--yes"))
    assert not stand.paths.state.exists()
    assert not stand.paths.run.exists()
    assert "stack t was never up" in assert_done(stand.down())


def test_before_the_first_up_every_command_says_so() -> None:
    with contextlib.closing(Stand()) as stand:
        assert_refused(stand.verify(), "stack t is not up; `cluster up t` starts it")
        assert_refused(stand.run("logs", stand.name), "stack t has no logs yet")
        message = "stack t has no release yet; `cluster up t` makes one"
        assert_refused(stand.run("manage", stand.name, "--", "check"), message)
        result = stand.run("status", stand.name)
        assert (result.status, "not running" in result.output) == (1, True), result.output
        assert "stack t was never up" in assert_done(stand.down())
        assert_refused(stand.rollback(), "there is no release before the one that serves")


# --- where, and by whom


def test_a_checkout_deeper_than_a_socket_s_path_works() -> None:
    top = Path(tempfile.mkdtemp(prefix="cl"))
    top.chmod(0o755)
    deep = top / "a-directory-with-a-name-of-some-length" / "and-another-one-in-it-of-the-same-length" / "and-a-third"
    with contextlib.closing(Stand(path=deep, instances=1)) as stand:
        assert len(os.fsencode(stand.paths.state / "run" / "app1" / "0123456789ab.sock")) > LONGEST_SOCKET_PATH
        assert_done(stand.up())
        assert_done(stand.verify())
        run = stand.paths.run
        assert not run.is_relative_to(stand.root)
        assert stat.S_IMODE(run.stat().st_mode) == (0o750 if os.geteuid() == 0 else 0o700)
        assert "no changes" in assert_done(stand.up())
        assert_done(stand.run("down", stand.name, "--delete-data", "--yes"))
        assert not run.exists()
    shutil.rmtree(top)


class UnprivilegedStand(Stand):
    """A stand whose commands are run as another user than root, with a home of its own."""

    user = "www-data"
    forks = False

    def command(self, *arguments: str) -> list[str]:
        identity = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", "--no-new-privs"]
        return [*identity, *super().command(*arguments)]

    def environment(self) -> dict[str, str]:
        home = {"HOME": str(self.root / "home"), "USER": self.user, "PYTHONDONTWRITEBYTECODE": "1"}
        return {**super().environment(), **home}


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can be another user")
def test_no_root_is_needed() -> None:
    with contextlib.closing(UnprivilegedStand()) as stand:
        (stand.root / "home").mkdir()
        for path in (stand.root, *stand.root.rglob("*")):
            shutil.chown(path, stand.user, stand.user)
        if stand.run("--help").status != 0:
            pytest.skip(f"{stand.user} can't read this checkout, or run its Python")
        output = assert_done(stand.up())
        assert "warning: the instances run as root" not in output
        assert_done(stand.verify())
        wanted = {pwd.getpwnam(stand.user).pw_uid}
        supervisor = int((stand.paths.run / "supervisord.pid").read_text())
        processes = with_children({supervisor})
        assert {uid_of(pid) for pid in processes} == wanted
        print(f"{len(processes)} processes run as {stand.user}")
        with Load(stand.address, clients=3, slow=2, slow_seconds=0.2) as load:
            stand.edit_code("visits/apps.py", "# another release\n")
            stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=4))
            assert_done(stand.up())
        print(load.counts)
        assert (load.counts.failed, load.counts.lost, load.counts.cut) == ([], [], 0)
        assert "no changes" in assert_done(stand.up())
        assert_done(stand.down())
