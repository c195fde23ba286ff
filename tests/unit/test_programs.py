"""What runs a stack's program for the engine: here the engine is one that only listens."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, chdir, contextmanager
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import pytest
import yaml
from google.protobuf import empty_pb2
from pulumi.runtime.proto import (
    engine_pb2,
    engine_pb2_grpc,
    language_pb2,
    language_pb2_grpc,
    resource_pb2,
    resource_pb2_grpc,
)

from cli.app import app
from cluster.errors import ClusterError, CommandError
from cluster.stack.paths import stack_path
from platforms import registry
from platforms.pulumi.engine import Pulumi, PulumiError
from platforms.pulumi.programs import SDK, Programs, _begun, programs
from tests.processes import lives

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PATIENCE = 120.0

#: A program that says its processes, and waits until there is a file called `go`.
WAITING = (
    "import os, pathlib, subprocess, time\n"
    "child = subprocess.Popen(['sleep', '600'])\n"
    "pathlib.Path('pids').write_text(f'{os.getpid()} {child.pid}\\n')\n"
    "while not pathlib.Path('go').exists(): time.sleep(0.05)\n"
    "child.kill(); child.wait()\n"
    "pathlib.Path('gone').touch()\n"
)


class Engine(engine_pb2_grpc.EngineServicer, resource_pb2_grpc.ResourceMonitorServicer):
    """Keeps what a program says, and makes nothing."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.told: list[str] = []
        self.outputs: dict[str, Any] = {}

    def Log(self, request: Any, _context: Any) -> Any:  # noqa: N802
        if request.severity == engine_pb2.ERROR:
            self.errors.append(request.message)
        elif request.severity == engine_pb2.INFO:
            self.told.append(request.message)
        return empty_pb2.Empty()

    def SupportsFeature(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return resource_pb2.SupportsFeatureResponse(hasSupport=False)

    def RegisterResource(self, request: Any, _context: Any) -> Any:  # noqa: N802
        return resource_pb2.RegisterResourceResponse(urn=f"urn:pulumi:s::p::{request.type}::{request.name}")

    def RegisterResourceOutputs(self, request: Any, _context: Any) -> Any:  # noqa: N802
        self.outputs |= dict(request.outputs.items())
        return empty_pb2.Empty()

    def SetRootResource(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return engine_pb2.SetRootResourceResponse()

    def GetDeploymentInfo(self, _request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "as an engine of before")

    def SignalAndWaitForShutdown(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return empty_pb2.Empty()


class Project:
    """A project with a program, and the engine that has it run."""

    def __init__(self, root: Path, address: str, engine: Engine) -> None:
        self.root = root
        self.address = address
        self.engine = engine
        self.runtime: Any = {"name": "python", "options": {"virtualenv": sys.prefix}}

    def write(self, program: str) -> None:
        (self.root / "Pulumi.yaml").write_text(yaml.safe_dump({"name": "p", "runtime": self.runtime}))
        (self.root / "__main__.py").write_text(program)

    def programs(self, *modules: str) -> Programs:
        found = programs(self.root, self.root / "Pulumi.s.yaml", *modules)
        assert found is not None
        return found

    def run(self, by: Programs, **environment: str) -> Any:
        with served(by, self, environment={**os.environ, **environment}) as address:
            return self.ask(address)

    def request(self) -> Any:
        return language_pb2.RunRequest(
            project="p",
            stack="s",
            pwd=str(self.root),
            program=".",
            args=[self.address],
            config={"p:known": "value", "p:hidden": "secret"},
            configSecretKeys=["p:hidden"],
            parallel=4,
            monitor_address=self.address,
            info=language_pb2.ProgramInfo(
                root_directory=str(self.root), program_directory=str(self.root), entry_point="."
            ),
        )

    def ask(self, address: str) -> Any:
        with grpc.insecure_channel(address) as channel:
            return language_pb2_grpc.LanguageRuntimeStub(channel).Run(self.request(), timeout=PATIENCE)


@contextmanager
def served(by: Programs, project: Project, *, environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    with by.serving(environment, project.root) as address:
        assert address is not None
        yield address


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    engine = Engine()
    server = grpc.server(ThreadPoolExecutor(8))
    engine_pb2_grpc.add_EngineServicer_to_server(engine, server)
    resource_pb2_grpc.add_ResourceMonitorServicer_to_server(engine, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield Project(tmp_path, f"127.0.0.1:{port}", engine)
    finally:
        server.stop(0).wait()


@contextmanager
def under_way(project: Project, by: Programs) -> Iterator[tuple[threading.Thread, list[Any]]]:
    """Let WAITING be run; it is under way."""
    answers: list[Any] = []
    with served(by, project) as address:

        def ask() -> None:
            try:
                answers.append(project.ask(address))
            except grpc.RpcError as error:
                answers.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: (project.root / "pids").exists() and (project.root / "pids").read_text().endswith("\n"))
        yield thread, answers
    thread.join(PATIENCE)


def until(done: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pids(project: Project) -> list[int]:
    return [int(word) for word in (project.root / "pids").read_text().split()]


def test_a_program_is_run_with_its_configuration_environment_and_directory(project: Project) -> None:
    project.write(
        "import os, pathlib, pulumi, helper\n"
        "config = pulumi.Config()\n"
        "pulumi.export('known', config.require('known'))\n"
        "pulumi.export('secret', pulumi.runtime.is_config_secret('p:hidden'))\n"
        "pulumi.export('said', [os.environ['SAID'], str(pathlib.Path.cwd()), pulumi.get_stack(), helper.WORD])\n"
        "pulumi.export('preview', pulumi.runtime.is_dry_run())\n"
        "print('printed by it')\n"
        "os.system('echo printed by what it starts')\n"
    )
    (project.root / "helper.py").write_text("WORD = 'beside it'\n")
    answer = project.run(project.programs(), SAID="yes")
    assert not answer.error
    assert not answer.bail
    assert project.engine.errors == []
    assert project.engine.outputs["known"] == "value"
    assert project.engine.outputs["secret"] is True
    assert project.engine.outputs["preview"] is False
    assert list(project.engine.outputs["said"]) == ["yes", str(project.root), "s", "beside it"]
    assert sorted(project.engine.told) == ["printed by it", "printed by what it starts"]


def test_a_run_finds_nothing_that_another_left(project: Project) -> None:
    project.write(
        "import os, json, pulumi\n"
        "pulumi.export('left', [getattr(json, 'left', 'nothing'), os.environ.get('LEFT', 'nothing')])\n"
        "json.left = os.environ['LEFT'] = 'something'\n"
    )
    by = project.programs("json")
    for _time in range(2):
        project.engine.outputs.clear()
        project.run(by)
        assert list(project.engine.outputs["left"]) == ["nothing", "nothing"]


def test_what_a_program_needs_is_imported_before_it_is_asked_for(project: Project, tmp_path: Path) -> None:
    (tmp_path / "slow_to_import.py").write_text("import os\nBY = os.getpid()\n")
    project.write("import os, pulumi, slow_to_import\npulumi.export('before', slow_to_import.BY != os.getpid())\n")
    sys.path.insert(0, str(tmp_path))
    try:
        by = project.programs("slow_to_import", "a_module_that_is_not_there")
    finally:
        sys.path.remove(str(tmp_path))
    assert project.run(by).error == ""
    assert project.engine.outputs["before"] is True


def test_an_engine_that_comes_before_the_program_can_be_asked_for_waits(project: Project) -> None:
    (project.root / "slow_to_import.py").write_text(
        "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.02)\n"
    )
    project.write("import os, pulumi\npulumi.export('said', os.environ['SAID'])\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(project.root))
        patch.chdir(project.root)
        by = project.programs("slow_to_import")
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(project.ask(f"unix:{by.ahead}")))
    asking.start()
    (project.root / "go").touch()
    with by.serving({**os.environ, "SAID": "yes"}, project.root, ahead=True) as address:
        assert address is not None
        asking.join(PATIENCE)
        assert [answer.error for answer in answers] == [""]
        assert project.engine.outputs["said"] == "yes"
        project.engine.outputs.clear()
        project.run(by, SAID="another run")
        assert project.engine.outputs["said"] == "another run"


def test_what_a_program_refuses_is_told_in_its_own_words(project: Project) -> None:
    project.write("import pulumi\nraise pulumi.RunError('cluster:app: there is none')\n")
    answer = project.run(project.programs())
    assert answer.bail
    assert project.engine.errors == ["cluster:app: there is none"]


def test_a_program_that_fails_is_told_from_its_own_line_on(project: Project) -> None:
    project.write("def deep():\n    return {}['absent']\n\ndeep()\n")
    answer = project.run(project.programs())
    assert answer.bail
    (words,) = project.engine.errors
    assert "KeyError: 'absent'" in words
    assert f'{project.root}/__main__.py", line 4' in words or '__main__.py", line 4' in words
    assert "runpy" not in words
    assert "serving.py" not in words


def test_a_program_that_exits_has_failed_unless_it_says_otherwise(project: Project) -> None:
    project.write("import sys\nsys.exit(3)\n")
    by = project.programs()
    assert project.run(by).error == "program exited with 3"
    project.write("import sys\nsys.exit(0)\n")
    assert project.run(by).error == ""


def test_outputs_that_an_asynchronous_program_resolves_are_not_waited_for_before_it(project: Project) -> None:
    project.write(
        "import asyncio, pulumi\n"
        "later = asyncio.get_running_loop().create_future()\n"
        "pulumi.export('said', pulumi.Output.from_input(later))\n"
        "async def main():\n"
        "    later.set_result('yes')\n"
        "    return {}\n"
        "pulumi.run(main)\n"
    )
    assert project.run(project.programs()).error == ""
    assert project.engine.outputs["said"] == "yes"


def test_nothing_is_imported_from_where_a_command_is_said(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It may be anybody's directory, and the one that says it may be root."""
    anybodys = tmp_path / "anybodys"
    anybodys.mkdir()
    (anybodys / "json.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setenv("PYTHONPATH", str(anybodys))
    project.write("import pulumi\npulumi.export('said', 'yes')\n")
    with chdir(anybodys):
        by = project.programs()
        assert project.run(by).error == ""
    assert project.engine.outputs["said"] == "yes"
    assert not (tmp_path / "ran").exists()


def test_plugins_that_packages_need_are_named(project: Project) -> None:
    project.write("")
    by = project.programs()
    with (
        served(by, project) as address,
        grpc.insecure_channel(address) as channel,
    ):
        host = language_pb2_grpc.LanguageRuntimeStub(channel)
        found = host.GetRequiredPackages(language_pb2.GetRequiredPackagesRequest(), timeout=PATIENCE).packages
        older = host.GetRequiredPlugins(language_pb2.GetRequiredPluginsRequest(), timeout=PATIENCE).plugins
        assert host.About(language_pb2.AboutRequest(), timeout=PATIENCE).executable == sys.executable
    for name in ("docker", "command"):
        said = json.loads((files(f"pulumi_{name}") / "pulumi-plugin.json").read_text())
        assert [f"v{said['version']}"] == [one.version for one in found if one.name == name]
        assert [f"v{said['version']}"] == [one.version for one in older if one.name == name]
    assert {one.kind for one in found} == {"resource"}


def test_a_program_that_nobody_waits_for_is_interrupted_and_tidies_up(project: Project) -> None:
    lines = WAITING.splitlines()
    waiting = "".join(f"    {line}\n" for line in lines[1:])
    project.write(f"{lines[0]}\ntry:\n{waiting}finally:\n    pathlib.Path('tidied').touch()\n")
    with served(project.programs(), project) as address:
        with grpc.insecure_channel(address) as channel:
            asked = language_pb2_grpc.LanguageRuntimeStub(channel).Run.future(project.request(), timeout=PATIENCE)
            until(lambda: (project.root / "pids").exists() and (project.root / "pids").read_text().endswith("\n"))
            asked.cancel()
        until((project.root / "tidied").exists)
    until(lambda: not any(map(lives, pids(project))))


def test_a_program_that_does_not_heed_an_interrupt_is_killed(project: Project) -> None:
    project.write("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + WAITING)
    with served(project.programs(), project) as address:
        with grpc.insecure_channel(address) as channel:
            asked = language_pb2_grpc.LanguageRuntimeStub(channel).Run.future(project.request(), timeout=PATIENCE)
            until(lambda: (project.root / "pids").exists() and (project.root / "pids").read_text().endswith("\n"))
            asked.cancel()
        until(lambda: not any(map(lives, pids(project))))
    assert not (project.root / "gone").exists()


def test_a_run_that_is_over_leaves_no_process_of_the_program(project: Project) -> None:
    project.write(WAITING)
    by = project.programs()
    with under_way(project, by) as (_thread, answers):
        assert all(map(lives, pids(project)))
    assert isinstance(answers[0], grpc.RpcError)
    until(lambda: not any(map(lives, pids(project))))
    assert not (project.root / "gone").exists()


@pytest.mark.parametrize("ended_by", ["the command is gone", "its process is killed"])
def test_a_program_under_way_ends_by_itself_where_the_command_does_not_wait_for_it(
    project: Project, ended_by: str
) -> None:
    """The engine may still need it: it ends what it has begun, and asks the program's hooks."""
    project.write(WAITING)
    by = project.programs()
    with Path(os.devnull).open("w") as nothing, ExitStack() as stack:
        thread, answers = stack.enter_context(under_way(project, by))
        assert by.process.stdin is not None
        if ended_by == "the command is gone":
            by.process.stdin.close()
            by.process.stdin = nothing
        else:
            by.process.send_signal(signal.SIGKILL)
            by.process.wait()
        time.sleep(0.2)
        assert all(map(lives, pids(project)))
        (project.root / "go").touch()
        thread.join(PATIENCE)
        assert answers[0].error == ""
    assert (project.root / "gone").exists()
    until(lambda: not any(map(lives, pids(project))))
    assert by.process.wait(PATIENCE) in (0, -signal.SIGKILL)


def test_a_process_that_can_not_begin_is_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("")
    monkeypatch.setattr("platforms.pulumi.programs.START", "import sys; sys.exit('no such module')")
    with pytest.raises(CommandError, match="the stack's program can't be run: no such module"):
        project.run(project.programs())


def test_a_run_that_can_not_be_asked_is_told_and_the_next_one_can(project: Project) -> None:
    project.write("")
    by = project.programs()
    taken = project.root / "taken"
    (taken / "program").mkdir(parents=True)
    with (
        pytest.raises(CommandError, match=r"the stack's program can't be run: (?s:.)*taken/program"),
        by.serving(os.environ, taken),
    ):
        pytest.fail("it can't be asked")
    assert project.run(by).error == ""


@pytest.mark.parametrize(
    "runtime",
    [
        "python",
        "nodejs",
        {"name": "python"},
        {"name": "python", "options": {"virtualenv": "elsewhere"}},
        {"name": "python", "options": {"virtualenv": sys.prefix, "toolchain": "uv"}},
        {"name": "python", "options": {"virtualenv": sys.prefix, "typechecker": "mypy"}},
    ],
)
def test_the_engine_runs_a_program_that_is_of_another_interpreter(project: Project, runtime: Any) -> None:
    project.runtime = runtime
    project.write("")
    assert programs(project.root, project.root / "Pulumi.s.yaml") is None


def test_the_engine_runs_a_program_that_has_another_version_of_the_components(project: Project) -> None:
    project.write("")
    (project.root / "cluster").mkdir()
    (project.root / "cluster" / "__init__.py").touch()
    assert programs(project.root, project.root / "Pulumi.s.yaml") is None


@pytest.mark.parametrize("text", ["", "[", "runtime: {", "name: p\n"])
def test_a_project_that_can_not_be_read_is_left_to_the_engine(project: Project, text: str) -> None:
    (project.root / "Pulumi.yaml").write_text(text)
    assert programs(project.root, project.root / "Pulumi.s.yaml") is None


class Served:
    """Says where a program is served."""

    def __init__(self) -> None:
        self.environments: list[dict[str, str]] = []

    @contextmanager
    def serving(self, environment: dict[str, str], _directory: Path) -> Iterator[str]:
        self.environments.append(environment)
        yield "unix:/somewhere"

    def interpreter(self, directory: Path) -> Path:
        return directory


@pytest.mark.parametrize("there", [True, False])
def test_the_engine_is_given_the_address_where_it_runs_the_program_by_it(tmp_path: Path, there: bool) -> None:
    program = tmp_path / "pulumi"
    program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\nexit 1\n')
    program.chmod(0o755)
    found = Pulumi.__new__(Pulumi)
    found.root, found.stack, found.command, found.say = tmp_path, "dev", str(program), print
    found.passphrase, found.program = tmp_path / "passphrase", None
    serving = Served()
    if there:
        found.programs = serving  # type: ignore[assignment]
    for run in (found.preview, found.up):
        with pytest.raises(PulumiError):
            run(lambda _event: None, CLUSTER_RELEASE="abc")
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.split()[1] for line in asked] == ["preview", "up"]
    assert ["--client=unix:/somewhere" in line.split() for line in asked] == [there, there]
    assert [one["CLUSTER_RELEASE"] for one in serving.environments] == ["abc", "abc"] * there
    with pytest.raises(PulumiError):
        found.destroy(lambda _event: None, protected=False)
    assert "--client" not in (tmp_path / "asked").read_text().splitlines()[-1]


# --- one that begins before it is asked for

STACK_FILES = {
    "docker": "config:\n  cluster:platform: docker\n",
    "remote": "config:\n  cluster:hosts: []\n  'x': 1\n  cluster:platform: 'remote' # hosts\n",
    "local": "config:\n  cluster:platform: local\n",
    "none yet": "config: {}\n",
    "another": "config:\n  cluster:platform: mars\n",
}


def with_stack(project: Project, monkeypatch: pytest.MonkeyPatch, text: str) -> Path:
    """Write a stack file beside a program, where Pulumi is; return it."""
    project.write("")
    file = stack_path(project.root, "s")
    file.parent.mkdir()
    file.write_text(text)
    monkeypatch.setattr("platforms.pulumi.programs.installed_pulumi", lambda: "pulumi")
    return file


@pytest.mark.parametrize("name", STACK_FILES)
def test_what_runs_a_program_begins_by_a_glance_at_the_stack_file_and_is_taken_once(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = with_stack(project, monkeypatch, STACK_FILES[name])
    registry.begin(project.root, "s")
    asked = [(project.root, (f"platforms.{name}.program", SDK))] if name in {"docker", "remote"} else []
    assert list(_begun) == asked
    for root, modules in asked:
        begun = _begun[root, modules]
        assert begun.process.poll() is None
        registry.begin(root, "s")  # as who reads the command line does after whoever glanced at it
        assert _begun[root, modules] is begun
        assert programs(root, file, "json") is not begun
        assert programs(root, file, *modules) is begun
    assert not _begun


def test_one_that_has_begun_for_a_stack_whose_file_has_an_environment_of_pulumi_s_is_let_go(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = with_stack(project, monkeypatch, f"environment: [shared]\n{STACK_FILES['docker']}")
    registry.begin(project.root, "s")
    ((_root, modules),) = _begun
    process = _begun[project.root, modules].process
    assert programs(project.root, file, *modules) is None
    assert process.poll() is not None


#: Files that must not be read before somebody looks whether they can be, and what is said of each.
HOSTILE = {
    "nested": ("x: " + "[" * 3000, "nested more than"),
    "a tag": ("x: !!timestamp foo", "!!timestamp"),
    "merged": (
        "a0: &a0 {" + ", ".join(f"k{n}: 1" for n in range(10)) + "}\n"
        + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 9)),
        "more than",
    ),
    "a pipe": (None, "not a file"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("platform", ["docker", "local"])
def test_what_begins_early_reads_nothing_of_a_stack_file_that_is_not_judged(
    project: Project, monkeypatch: pytest.MonkeyPatch, what: str, platform: str
) -> None:
    project.write("")
    text, words = HOSTILE[what]
    file = stack_path(project.root, "s")
    file.parent.mkdir()
    if text is None:
        os.mkfifo(file)
    else:
        file.write_text(f"config:\n  cluster:platform: {platform}\n{text}\n")
    monkeypatch.setattr("platforms.pulumi.programs.installed_pulumi", lambda: "pulumi")
    monkeypatch.chdir(project.root)
    with pytest.raises(ClusterError, match=re.escape(words)):
        app(["plan", "s"], standalone_mode=False)
    _begun.clear()


def test_what_can_not_begin_early_keeps_nothing_from_going_on(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_stack(project, monkeypatch, STACK_FILES["docker"])
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    registry.begin(project.root, "s")
    assert not _begun


def test_nothing_begins_where_pulumi_is_not_there_or_the_file_is_not(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platforms.pulumi.programs.installed_pulumi", lambda: None)
    project.write("")
    registry.begin(project.root, "s")
    file = stack_path(project.root, "s")
    file.parent.mkdir()
    file.write_text(STACK_FILES["docker"])
    registry.begin(project.root, "s")
    file.write_bytes(b"\xff\xfe")
    registry.begin(project.root, "s")
    assert not _begun


@pytest.mark.parametrize("command", ["up", "plan", "rollback"])
def test_it_begins_before_the_stack_file_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str) -> None:
    (tmp_path / "stacks").mkdir()
    monkeypatch.chdir(tmp_path)
    done: list[str] = []

    def read(name: str) -> NoReturn:
        done.append(f"read {name}")
        raise CommandError("that is enough")

    commands = import_module("cli.app")  # whose name in its package is the command line's
    monkeypatch.setattr(commands, "begin", lambda root, name: done.append(f"begin {root.name} {name}"))
    monkeypatch.setattr(commands, "open_stack", read)
    with pytest.raises(CommandError, match="enough"):
        app([command, "shop"], standalone_mode=False)
    assert done == [f"begin {tmp_path.name} shop", "read shop"]
