"""A stack whose state is where a URL says: on a server of its own, that two people reach.

CLUSTER_BACKENDS: the URLs, each of a bucket that is there and holds nothing. CLUSTER_SECRETS_PROVIDERS: as many of what
encrypts the secrets, in the same order; credentials are in the environment, as docs/team.md says. Without it none of
this runs.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.conformance import servers
from tests.e2e.stand import docker_stack
from tests.e2e.test_team import Checkout
from tests.local.test_commands import assert_done

if TYPE_CHECKING:
    from collections.abc import Iterator

URLS = os.environ.get("CLUSTER_BACKENDS", "").split()
PROVIDERS = os.environ.get("CLUSTER_SECRETS_PROVIDERS", "").split()

pytestmark = pytest.mark.skipif(not URLS, reason="CLUSTER_BACKENDS names no server: docs/team.md says how to try one")


class Anywhere(Checkout):
    """A checkout whose secrets are encrypted by what was asked for: by a passphrase alone where nothing was."""

    provider = ""

    def environment(self) -> dict[str, str]:
        found = super().environment()
        if self.provider:
            del found["PULUMI_CONFIG_PASSPHRASE"]
        return found


@pytest.fixture(scope="module", params=list(itertools.zip_longest(URLS, PROVIDERS, fillvalue="")) or [("", "")])
def ann(request: pytest.FixtureRequest) -> Iterator[Anywhere]:
    url, provider = request.param
    stack = docker_stack()
    stack["upstream"]["servers"] = [{"name": "app1", "weight": 3}, {"name": "app2"}]
    with contextlib.closing(Anywhere(stack, name="backend")) as found:
        found.provider = provider
        (found.root / "state").rmdir()
        more = ["--secrets-provider", provider] if provider else []
        said = assert_done(found.run("init", found.name, "--backend", url, *more))
        assert f"Pulumi.yaml names {url}: commit it" in said
        assert_done(found.up())
        assert "no changes" in assert_done(found.up())
        yield found


@pytest.fixture(scope="module")
def ben(ann: Anywhere, tmp_path_factory: pytest.TempPathFactory) -> Anywhere:
    found = Anywhere.__new__(Anywhere)
    found.__dict__ |= ann.of(tmp_path_factory.mktemp("ben") / "checkout").__dict__
    return found


def test_the_secrets_are_encrypted_as_asked_and_not_on_this_machine(ann: Anywhere) -> None:
    document = yaml.safe_load(ann.file.read_text())
    assert ann.kept_secret("secret_key") not in ann.file.read_text()
    assert document.get("secretsprovider", "") == ann.provider
    assert not list((ann.root / ".cluster").rglob("passphrase"))


def test_another_checkout_plans_tells_and_changes(ann: Anywhere, ben: Anywhere) -> None:
    assert assert_done(ben.run("plan", ben.name)) == f"stack {ben.name}: no changes\n"
    assert ben.status()["ok"]
    assert_done(ben.run("status", ben.name, "--drift"))
    ben.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
    assert "app1 75 % -> 83.3 %" in assert_done(ben.up())
    assert "app1 83.3 % -> 75 %" in assert_done(ann.run("plan", ann.name))


def test_who_comes_second_is_told_who_is_at_it(ann: Anywhere, ben: Anywhere) -> None:
    """Ann's engine is stopped where it stands: the lock is the one that it has made itself."""
    ann.edit_stack(lambda stack: servers(stack)["app1"].update(weight=9))
    process = ann.start("up", ann.name)
    assert process.stdout is not None
    said = list(itertools.takewhile(lambda line: "checking its configuration" not in line, process.stdout))
    engine = _engine_of(process.pid)
    assert engine, said
    os.kill(engine, signal.SIGSTOP)
    try:
        refused = ben.up()
        assert_done(ben.run("plan", ben.name))  # which waits for nobody
    finally:
        os.kill(engine, signal.SIGCONT)
        rest = process.communicate(timeout=300)[0]
    assert process.returncode == 0, rest
    assert refused.status == 1
    who = re.escape(f"@{socket.gethostname()} (pid {engine}) is changing this stack; wait until it has ended")
    assert re.search(who, refused.output), refused.output
    assert "Traceback" not in refused.output


def _engine_of(command: int) -> int:
    """Return the pulumi that a command has started; 0 where it runs none."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            if name == "pulumi" and int(rest.split()[1]) == command:
                return int(path.parent.name)
    return 0
