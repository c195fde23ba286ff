"""A stack that two people have, each in a checkout of their own: Pulumi.yaml names where its state is."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conformance import servers
from tests.e2e.stand import DockerStand, docker_stack
from tests.local.test_commands import assert_done

if TYPE_CHECKING:
    from collections.abc import Iterator


class Checkout(DockerStand):
    """A checkout of somebody who has said nothing of a backend; the passphrase is told from one to the other."""

    def environment(self) -> dict[str, str]:
        return {name: value for name, value in super().environment().items() if name != "PULUMI_BACKEND_URL"}

    def of(self, root: Path) -> Checkout:
        """Return another checkout of the same, as git would make it."""
        ignored = shutil.ignore_patterns(".cluster", "state", "__pycache__")
        shutil.copytree(self.root, root, ignore=ignored)
        other = object.__new__(Checkout)
        other.__dict__ |= self.__dict__ | {"root": root, "project": root / self.project.name}
        return other


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="state") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def ann(state: Path) -> Iterator[Checkout]:
    stack = docker_stack()
    stack["upstream"]["servers"] = [{"name": "app1", "weight": 3}, {"name": "app2"}]
    with contextlib.closing(Checkout(stack, name="team")) as found:
        (found.root / "state").rmdir()
        said = assert_done(found.run("init", found.name, "--backend", f"file://{state}"))
        assert f"Pulumi.yaml names file://{state}: commit it" in said
        assert_done(found.up())
        yield found


@pytest.fixture(scope="module")
def ben(ann: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return ann.of(tmp_path_factory.mktemp("ben") / "checkout")


def test_the_state_is_where_the_repository_says(ann: Checkout, state: Path) -> None:
    assert list(state.rglob(f"{ann.name}.json"))


def test_another_checkout_finds_the_stack_and_goes_on(ann: Checkout, ben: Checkout) -> None:
    assert assert_done(ben.run("plan", ben.name)) == f"stack {ben.name}: no changes\n"
    ben.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
    said = assert_done(ben.up())
    assert "+ server unix:…/app1/http.sock weight=5 max_fails=0;" in said
    assert "app1 75 % -> 83.3 %" in said
    # Who has not pulled it yet would take it back, and is told so.
    assert "app1 83.3 % -> 75 %" in assert_done(ann.run("plan", ann.name))


def test_who_comes_second_is_told_who_is_at_it(ann: Checkout, ben: Checkout, state: Path) -> None:
    ben.edit_stack(lambda stack: servers(stack)["app1"].update(weight=7))
    locks = state / ".pulumi" / "locks" / "organization" / "django-cluster" / ben.name
    locks.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname()
    # As the engine writes it for whoever runs it; a process that lives is this one.
    held = {"pid": os.getpid(), "username": "ann", "hostname": host, "timestamp": "2026-01-05T12:00:00.000000000Z"}
    lock = locks / f"{uuid.uuid4()}.json"
    lock.write_text(json.dumps(held))
    digest = ann.nginx_digest()
    try:
        refused = ben.up()
        assert_done(ben.run("plan", ben.name))  # which waits for nobody
    finally:
        lock.unlink()
    assert refused.status == 1
    assert f"ann@{host} (pid {os.getpid()}) is changing this stack; wait until it has ended" in refused.output
    assert ann.nginx_digest() == digest, "it was changed all the same"
    assert_done(ben.up())
    assert ann.nginx_digest() != digest


def test_a_stack_that_runs_is_not_left_where_its_state_is(ben: Checkout) -> None:
    refused = ben.run("init", ben.name, "--backend", "file:///srv/elsewhere")
    assert refused.status == 1
    assert f"stack {ben.name} runs, and its state is in another place" in refused.output
