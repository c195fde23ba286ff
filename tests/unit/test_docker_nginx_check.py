"""The stack's nginx on Docker that a plan asks: what it is given, what becomes of its container, and what it says."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.plan.nginx_check import Refusal, UncheckedError
from cluster.stack.opened import Stack
from platforms.docker.engine import EngineError
from platforms.docker.nginx_check import ContainerChecker, checker
from platforms.docker.scripts import HOST
from platforms.docker.stack import DockerStack
from tests.nginx_versions import installed_nginx
from tests.unit.pulumi_mocks import PROJECT, write_stack
from tests.unit.test_docker_plan import VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator

BROKEN = {"http": "geo $a {\n    default 1;\n}\n", "server": "add_haeder X-A b;\nproxy_pass_header X;\n"}


class Engine:
    """An engine on which `words` is what a container's nginx says of a configuration with the broken snippet."""

    def __init__(self, words: str = "", status: int = 1) -> None:
        self.words, self.status = words, status
        self.ran: list[tuple[str, ...]] = []
        self.members: dict[str, tarfile.TarInfo] = {}
        self.away = False

    def inspect(self, containers: list[str]) -> list[dict[str, Any]]:
        return [{"Id": one, "Image": "sha256:1", "HostConfig": {"Memory": 64 * 1024**2}} for one in containers]

    def run(self, *arguments: str) -> str:
        self.ran.append(arguments)
        return "check1\n"

    def told(self, *arguments: str, told: str, timeout: float) -> subprocess.CompletedProcess[str]:
        assert timeout > 0
        if self.away:
            raise EngineError("the engine is away")
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(told))) as archive:
            self.members = {one.name: one for one in archive}
        directory = arguments[-1]
        if "snippets/server.conf" not in self.members:
            return subprocess.CompletedProcess(arguments, 0, "", "")
        words = self.words.format(directory=directory)
        return subprocess.CompletedProcess(arguments, self.status, "", words)


@pytest.fixture
def docker(tmp_path: Path) -> DockerStack:
    write_stack(tmp_path, VALUES)
    (tmp_path / "Pulumi.yaml").write_text(f"name: {PROJECT}\nruntime: python\n")
    return DockerStack(Stack(tmp_path, "dev", parse_config(VALUES)))


def config() -> Any:
    return parse_config({**VALUES, "site": {**VALUES["site"], "snippets": BROKEN}})


def test_what_it_refuses_is_told_by_its_key(docker: DockerStack) -> None:
    engine = Engine('2026/01/01 [emerg] 7#7: unknown directive "add_haeder" in {directory}/snippets/server.conf:1\n')
    docker.engine = engine  # type: ignore[assignment]
    with checker(docker, "nginx1") as asked:
        found = asked.refusals(config())
    assert found == [
        Refusal(key="site.snippets.server", words='unknown directive "add_haeder" in snippets/server.conf:1')
    ]
    began, ended = engine.ran
    assert ended == ("rm", "--force", "check1")
    for words in (("--network", "none"), ("--volumes-from", "nginx1:ro"), ("--cap-drop", "ALL")):
        assert " ".join(words) in " ".join(began)
    assert "--rm" in began


def test_a_host_that_nobody_knows_there_is_no_refusal(docker: DockerStack) -> None:
    engine = Engine('[emerg] 7#7: host not found in upstream "elsewhere" in {directory}/snippets/server.conf:1\n')
    docker.engine = engine  # type: ignore[assignment]
    with checker(docker, "nginx1") as asked:
        refused, unsure = asked.judged(config())
    assert refused == []
    assert unsure[0].startswith('site.snippets.server: nginx refuses it: host not found in upstream "elsewhere"')


def test_an_engine_that_is_away_refuses_nothing_and_the_container_goes(docker: DockerStack) -> None:
    engine = Engine()
    docker.engine, engine.away = engine, True  # type: ignore[assignment]
    with pytest.raises(UncheckedError, match="the engine is away"), checker(docker, "nginx1") as asked:
        asked.refusals(config())
    assert engine.ran[-1] == ("rm", "--force", "check1")


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A directory as a container has one, in which the script makes its own."""
    made = "/tmp/ngx-0123abcd"
    monkeypatch.setattr("platforms.docker.nginx_check.secrets.token_hex", lambda _length: "0123abcd")
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_the_script_lets_a_real_nginx_look_and_leaves_nothing(directory: str) -> None:
    nginx = installed_nginx()
    if nginx is None:
        pytest.skip("nginx is not installed")

    class Here(Engine):
        def told(self, *arguments: str, told: str, timeout: float) -> subprocess.CompletedProcess[str]:
            command = list(arguments[arguments.index("sh") :])
            assert command[2] == (HOST / "check.sh").read_text()
            return subprocess.run(command, input=told, capture_output=True, text=True, check=False, timeout=timeout)

    asked = ContainerChecker(Here(), "check1", nginx.version)  # type: ignore[arg-type]
    asked.user = "root" if os.geteuid() == 0 else None  # a container's is not root
    assert asked.refusals(parse_config(VALUES)) == []
    (found,) = asked.refusals(config())
    assert (found.key, found.words) == (
        "site.snippets.server",
        'unknown directive "add_haeder" in snippets/server.conf:1',
    )
    assert not Path(directory).exists()
