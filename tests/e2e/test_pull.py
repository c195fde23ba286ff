"""Security updates: bases pulled anew by `cluster up --pull`, and by a plain `pulumi up`, from a registry here."""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.e2e.stand import DockerStand, docker_stack
from tests.e2e.test_creation import Outages
from tests.e2e.tools import BASE, docker
from tests.load import Load
from tests.local.stand import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AROUND = 300

IDLE = 20

SERVERS: list[dict[str, Any]] = [{"name": "app1", "weight": 2}, {"name": "app2"}]

CONFIG = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {directory}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@cache
def registry_program() -> str:
    """Return Debian's docker-registry, installed or fetched for these tests; empty where it can't be had."""
    found = shutil.which("docker-registry")
    if found is not None:
        return found
    directory = tempfile.mkdtemp(prefix="cluster-registry-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        fetch = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", "docker-registry"]
        subprocess.run(fetch, cwd=directory, check=True, timeout=120)
        (package,) = Path(directory).glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", str(package), directory], check=True, timeout=120)
        return str(Path(directory) / "usr" / "bin" / "docker-registry")
    return ""


class Registry:
    """A registry on this machine's own address, that can go away and come back."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="cluster-registry-"))
        self.port = free_port()
        self.image = f"localhost:{self.port}/base:latest"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self.directory / "config.yml"
        config.write_text(CONFIG.format(directory=self.directory / "data", port=self.port))
        command = [registry_program(), "serve", str(config)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                break
            assert time.monotonic() < deadline, "the registry does not answer"
            time.sleep(0.1)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert opener.open(f"http://127.0.0.1:{self.port}/v2/", timeout=10).status == 200

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)
        self._process = None

    def close(self) -> None:
        self.stop()
        docker("rmi", self.image, check=False)
        repository = self.image.rpartition(":")[0]
        pulled = docker("images", "--digests", "--format", "{{.Repository}}@{{.Digest}}", repository)
        for digest in pulled.split():  # what was pushed or pulled keeps a name of that kind
            docker("rmi", digest, check=False)
        shutil.rmtree(self.directory)

    def publish(self, marker: str = "") -> None:
        """Let the registry have a base, with a file `/marker` of that name; the engine keeps the one that it had."""
        former = docker("image", "ls", "--quiet", "--no-trunc", self.image)
        if marker:
            container = docker("create", BASE, "touch", f"/{marker}")
            docker("start", "--attach", container)
            docker("commit", "--change", 'CMD ["bash"]', container, self.image)
            docker("rm", container)
        else:
            docker("tag", BASE, self.image)
        docker("push", self.image, timeout=600)
        if former:
            docker("tag", former, self.image)


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    if not registry_program():
        pytest.skip("Debian's docker-registry can't be had here (apt-get install docker-registry)")
    with contextlib.closing(Registry()) as found:
        found.start()
        found.publish()
        yield found


@pytest.fixture(scope="module")
def stand(registry: Registry) -> Iterator[DockerStand]:
    """A stack on the registry's base. Of sqlite, so that nginx alone is what can't be replaced without a refusal."""
    stack = docker_stack() | {"database": {"engine": "sqlite"}, "images": {"base": registry.image}}
    stack["app"]["health"]["start_timeout"] = "40s"
    stack["upstream"]["servers"] = [dict(server) for server in SERVERS]
    with contextlib.closing(DockerStand(stack, name="p")) as found:
        result = found.run("up", found.name, timeout=900)
        assert result.status == 0, result.output
        yield found


def images_of(stand: DockerStand) -> dict[str, str]:
    images: dict[str, str] = yaml.safe_load(stand.file.read_text())["config"]["cluster:images"]
    return images


def at(stand: DockerStand, minutes: int) -> str:
    """Set `images.as_of` by hand, to so many minutes ago."""
    text = (dt.datetime.now(dt.UTC) - dt.timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%MZ")
    stand.edit_stack(lambda stack: stack["images"].update(as_of=text))
    return text


def without(stand: DockerStand, marker: str) -> list[str]:
    """Return the running containers of the stack that are not made of the base with that marker, by their roles."""
    found = stand.containers()
    assert len(found) == 5, "two instances, two memcached nodes, and nginx"
    missing = []
    for container in found:
        probe = subprocess.run(["docker", "exec", container, "test", "-e", f"/{marker}"], check=False)
        if probe.returncode:
            missing.append(docker("inspect", "--format", "{{.Name}}", container).split("-")[1])
    return sorted(missing)


ALL = ["app1", "app2", "memcached1", "memcached2", "nginx"]


def bring_up(run: Callable[[], tuple[int, str]], stand: DockerStand, what: str) -> str:
    """Do it under load: no request fails but those that nginx refuses while it is replaced, and no session is lost."""
    began = time.monotonic()
    with Outages(stand.address, clients=6) as load:
        load.wait_for(AROUND)
        status, output = run()
        load.wait_for(AROUND)
    assert status == 0, output
    print(f"{what} in {time.monotonic() - began:.0f} s: {load}")
    load.assert_only_refused(outages=1)
    return output


def test_up_with_pull_replaces_every_image_and_loses_no_session_and_no_request_but_what_a_new_nginx_refuses(
    stand: DockerStand, registry: Registry
) -> None:
    registry.publish("marker-one")
    assert "no changes" in stand.up().output, "an up without --pull must pull nothing"
    assert without(stand, "marker-one") == ALL
    stand.file.write_text(f"# kept\n{stand.file.read_text()}")
    release = stand.release()

    def pull() -> tuple[int, str]:
        result = stand.run("up", stand.name, "--pull", timeout=900)
        return result.status, result.output

    output = bring_up(pull, stand, "up --pull")
    assert f"pulling {registry.image}" in output
    assert without(stand, "marker-one") == []
    assert stand.release() != release
    assert stand.file.read_text().startswith("# kept\n")
    stand.stack["images"] = images_of(stand)
    assert set(stand.stack["images"]) == {"base", "as_of"}
    assert "no changes" in stand.up().output
    assert stand.pulumi("preview", "--expect-no-changes").returncode == 0


def test_a_rollback_goes_back_to_the_base_that_the_former_release_had(stand: DockerStand, registry: Registry) -> None:
    registry.publish("marker-two")
    at(stand, 10)
    result = stand.run("up", stand.name, timeout=900)
    assert result.status == 0, result.output
    assert without(stand, "marker-two") == []
    result = stand.run("rollback", stand.name, timeout=900)
    assert result.status == 0, result.output
    assert without(stand, "marker-two") == ["app1", "app2"], "the former base is what is known to work"
    assert stand.run("up", stand.name, timeout=900).status == 0


def test_a_plain_up_on_a_machine_that_has_not_pulled_does_the_same_and_without_the_hook_it_would_not(
    stand: DockerStand, registry: Registry
) -> None:
    registry.publish("marker-three")
    at(stand, 9)
    with stand.sabotaged("no_pull"):
        result = stand.pulumi("up", "--yes", "--skip-preview", timeout=900)
    assert result.returncode == 0, result.stdout
    assert without(stand, "marker-three") == ALL, "the saboteur pulled nothing, and yet the new base is there"
    at(stand, 8)

    def plain() -> tuple[int, str]:
        done = stand.pulumi("up", "--yes", "--skip-preview", timeout=900)
        return done.returncode, done.stdout

    bring_up(plain, stand, "plain pulumi up with another images.as_of")
    assert without(stand, "marker-three") == []


def test_a_base_that_can_t_be_pulled_changes_nothing(stand: DockerStand, registry: Registry) -> None:
    before, containers = stand.file.read_text(), stand.containers()
    registry.stop()
    try:
        with Load(stand.address) as load:
            load.wait_for(AROUND)
            result = stand.run("up", stand.name, "--pull")
            assert stand.file.read_text() == before
            at(stand, 7)
            plain = stand.pulumi("up", "--yes", "--skip-preview")
            ours = stand.up()
            load.wait_for(AROUND)
    finally:
        registry.start()
        stand.file.write_text(before)
        stand.stack["images"] = images_of(stand)
    assert result.status == 1
    (line,) = [line for line in result.output.splitlines() if "can't be pulled" in line]
    assert f"images.base: {registry.image} can't be pulled for images.as_of: " in line
    assert line.endswith("; nothing is changed, the stack file neither, and what served still serves")
    assert plain.returncode != 0
    assert f"images.base: {registry.image} can't be pulled for images.as_of: " in plain.stdout
    assert "; what served still serves" in plain.stdout
    assert ours.status == 1
    assert f"images.base: {registry.image} can't be pulled for images.as_of: " in ours.output
    assert ours.output.lower().count("what served still serves") == 1
    assert stand.containers() == containers
    print(f"a base that can't be pulled, three times: {load.counts}")
    assert load.counts.failed == []
    assert load.counts.lost == []
    assert "no changes" in stand.up().output
