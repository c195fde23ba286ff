"""Bad input on Docker: one clear message, nothing that served is harmed, and the next good `up` works."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.e2e.stand import DockerStand, docker_port
from tests.load import Load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.local.stand import Result

BROKEN_MIGRATION = """
from django.db import migrations


def fail(apps, schema_editor):
    raise RuntimeError("this migration fails")


class Migration(migrations.Migration):
    dependencies = [("visits", "0001_initial")]
    operations = [migrations.RunPython(fail)]
"""


#: The first process of a container that serves is the instance; of one that proves, the task.
BROKEN_IN_ITS_CONTAINER = """
with open("/proc/1/cmdline") as command:
    if "cluster_runtime.instance" in command.read():
        raise RuntimeError("broken where it serves")
"""


@pytest.fixture(scope="module")
def stand() -> Iterator[DockerStand]:
    with contextlib.closing(DockerStand(name="b")) as found:
        result = found.up()
        assert result.status == 0, result.output
        yield found


def harmless(stand: DockerStand, act: Callable[[], Result], *words: str) -> str:
    """Let a command fail under load, and see that it says `words` briefly and harms nothing."""
    before = stand.containers()
    with Load(stand.address) as load:
        load.wait_for(200)
        result = act()
        load.wait_for(200)
    print(f"{words[0]}: {load.counts}")
    assert result.status != 0
    for word in words:
        assert word in result.output, result.output
    assert "Traceback" not in result.output.replace("    Traceback", ""), result.output
    assert load.counts.failed == []
    assert load.counts.lost == []
    assert stand.containers() == before, "what served was touched"
    return result.output


@contextlib.contextmanager
def changed(path: Path, text: str) -> Iterator[None]:
    """Let a file of the project be another for a while."""
    former = path.read_text() if path.exists() else None
    path.write_text(text)
    try:
        yield
    finally:
        if former is None:
            path.unlink()
        else:
            path.write_text(former)


def test_a_base_image_that_cannot_be_had(stand: DockerStand) -> None:
    document = yaml.safe_load(stand.file.read_text())
    document["config"]["cluster:images"] = {"app": "registry.invalid/no-such-image:1"}
    with changed(stand.file, yaml.safe_dump(document)):
        harmless(stand, stand.up, "images: registry.invalid/no-such-image:1, the base of app, can't be had")
    assert "no changes" in stand.up().output


def test_a_build_that_fails(stand: DockerStand) -> None:
    requirements = stand.root / "example" / "requirements.txt"
    with changed(requirements, requirements.read_text() + "no-such-package-of-anybody==1.0\n"):
        harmless(stand, stand.up, "the image of the release can't be built", "no-such-package-of-anybody")
    assert "no changes" in stand.up().output


def test_a_migration_that_fails(stand: DockerStand) -> None:
    migrations = stand.root / "example" / "visits" / "migrations"
    with changed(migrations / "0002_fails.py", BROKEN_MIGRATION):
        harmless(stand, stand.up, "app.migrate: migrate failed", "this migration fails")
    assert stand.up().status == 0


def test_a_wrong_passphrase(stand: DockerStand, monkeypatch: pytest.MonkeyPatch) -> None:
    good = stand.environment()
    monkeypatch.setattr(stand, "environment", lambda: {**good, "PULUMI_CONFIG_PASSPHRASE": "wrong"})
    output = harmless(stand, stand.up, "passphrase of stack")
    assert len(output.splitlines()) <= 2, output


def test_an_engine_that_is_away(stand: DockerStand) -> None:
    document = yaml.safe_load(stand.file.read_text())
    with changed(stand.file, yaml.safe_dump({**document, "config": {**document["config"], **AWAY}})):
        output = harmless(stand, stand.up, "the Docker engine unix:///nonexistent/docker.sock does not answer")
    assert len(output.splitlines()) == 1, output


AWAY: dict[str, Any] = {"docker:host": "unix:///nonexistent/docker.sock"}


def test_without_docker_or_pulumi_one_line_says_what_to_do(stand: DockerStand, monkeypatch: pytest.MonkeyPatch) -> None:
    good = stand.environment()
    monkeypatch.setattr(stand, "environment", lambda: {**good, "PATH": "/nonexistent"})
    result = stand.up()
    assert result.status != 0
    assert result.output.splitlines() == ["the docker command is missing: apt-get install docker.io"]
    docker_only = stand.root / "bin"
    docker_only.mkdir()
    (docker_only / "docker").symlink_to(str(shutil.which("docker")))
    monkeypatch.setattr(
        stand, "environment", lambda: {**good, "PATH": str(docker_only), "HOME": str(stand.root / "nobody")}
    )
    result = stand.up()
    assert result.status != 0
    assert "Pulumi is missing, and its installer can't be reached from here" in result.output
    assert len(result.output.splitlines()) <= 2, result.output


def test_a_configuration_without_secret_key(stand: DockerStand) -> None:
    """`cluster up` makes one; `pulumi up` alone says what is missing."""
    document = yaml.safe_load(stand.file.read_text())
    without = {key: value for key, value in document["config"].items() if key != "cluster:secret_key"}
    with changed(stand.file, yaml.safe_dump({**document, "config": without})):
        done = stand.pulumi("up", "--yes", "--skip-preview")
    assert done.returncode != 0
    assert "secret_key" in done.stdout
    assert "Traceback" not in done.stdout
    assert "no changes" in stand.up().output


def test_a_full_disk(stand: DockerStand) -> None:
    images = stand.root / ".cluster" / stand.name / "images"
    size = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(images)]
    mounted = subprocess.run(size, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk can't be made here: {mounted.stderr.strip()}")
    code = stand.root / "example" / "visits" / "apps.py"
    try:
        with changed(code, code.read_text() + "# no room for it\n"):
            harmless(stand, stand.up, "No space left on device", "free some room")
    finally:
        subprocess.run(["umount", str(images)], check=True)
    assert "no changes" in stand.up().output


def test_a_port_in_use_and_then_a_free_one() -> None:
    with contextlib.closing(DockerStand(name="p")) as stand, socket.socket() as taken:
        taken.bind(("0.0.0.0", docker_port()))
        taken.listen()
        stand.edit_stack(lambda stack: stack["site"].update(listen=taken.getsockname()[1]))
        result = stand.up()
        assert result.status != 0
        assert f"site.listen: port {taken.getsockname()[1]} is in use" in result.output, result.output
        stand.edit_stack(lambda stack: stack["site"].update(listen=docker_port()))
        result = stand.up()
        assert result.status == 0, result.output


def test_an_instance_that_never_gets_healthy_in_its_container_takes_no_name(stand: DockerStand) -> None:
    """What the proof can't see: it fails only in the container that is to serve."""
    before = stand.release()
    urls = stand.root / "example" / "example" / "urls.py"
    with changed(urls, urls.read_text() + BROKEN_IN_ITS_CONTAINER), Load(stand.address) as load:
        load.wait_for(200)
        result = stand.up()
        load.wait_for(200)
    assert result.status != 0
    assert "broken where it serves" in result.output, result.output
    assert stand.release() == before
    assert load.counts.failed == []
    print(f"unhealthy only in its container: {load.counts}")
    assert stand.up().status == 0
    assert len(stand.containers("instance", stopped=True)) == 4
