"""An engine that is reached by ssh alone, as docker:host says: a server of this machine's own, on a port of its own."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conformance import assert_nothing_lost
from tests.e2e.stand import DockerStand
from tests.load import Load
from tests.local.stand import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")

pytestmark = pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="there is no OpenSSH server here")


class Server:
    """An ssh server for this user alone; `commands` holds an `ssh` that knows its key and its port."""

    def __init__(self, root: Path) -> None:
        self.port = free_port()
        self.log = root / "log"
        self.commands = root / "bin"
        self.commands.mkdir()
        for name in ("host", "user"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / name)]
            subprocess.run(key, check=True)
        public = (root / "host.pub").read_text()
        (root / "known").write_text(f"[127.0.0.1]:{self.port} {public}")
        (root / "allowed").write_text((root / "user.pub").read_text())
        (root / "client").write_text(
            f"IdentityFile {root / 'user'}\nIdentitiesOnly yes\nUserKnownHostsFile {root / 'known'}\nBatchMode yes\n"
        )
        (root / "server").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {root / 'host'}\nAuthorizedKeysFile {root / 'allowed'}\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nMaxStartups 200\n"
            f"MaxSessions 200\nLogLevel VERBOSE\nPidFile none\n"
        )
        ssh = self.commands / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {root / "client"} "$@"\n')
        ssh.chmod(0o755)
        Path("/run/sshd").mkdir(exist_ok=True)
        self.start()

    def start(self) -> None:
        assert SSHD is not None
        command = [SSHD, "-D", "-f", str(self.log.with_name("server")), "-E", str(self.log)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    @property
    def host(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    def accepted(self) -> int:
        return self.log.read_text().count("Accepted publickey")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with contextlib.closing(Server(tmp_path)) as found:
        yield found


def test_a_stack_on_an_engine_by_ssh_comes_up_and_is_released_without_a_loss(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(DockerStand(name="s", host=server.host, path=str(server.commands))) as stand:
        # Nothing of it may go to this machine's own engine.
        environment = {**stand.environment(), "DOCKER_HOST": "unix:///nowhere"}
        monkeypatch.setattr(stand, "environment", lambda: environment)
        result = stand.up()
        assert result.status == 0, result.output
        assert "verified" in result.output
        with Load(stand.address) as load:
            load.wait_for(200)
            stand.edit_code("visits/apps.py", "# by ssh\n")
            began = time.monotonic()
            result = stand.up()
            seconds = time.monotonic() - began
            load.wait_for(200)
        assert result.status == 0, result.output
        print(f"a release by ssh in {seconds:.1f} s: {load.counts}")
        assert_nothing_lost(load.counts)
        assert server.accepted() > 20
        preview = stand.pulumi("preview", "--json")
        assert set(json.loads(preview.stdout[preview.stdout.index("{") :])["changeSummary"]) == {"same"}
        assert stand.status()["ok"]
        assert "app1-" in stand.run("logs", stand.name).output
        assert "no changes" in stand.up().output
        server.close()
        refused = stand.up()
        assert refused.status == 1
        assert f"the Docker engine {server.host} does not answer" in refused.output, refused.output
        server.start()
