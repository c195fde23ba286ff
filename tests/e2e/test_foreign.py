"""The three public projects on Docker: from `cluster init` to `cluster verify`, unmodified."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from typing import TYPE_CHECKING

import httpx
import pytest
import yaml

from tests.e2e.stand import DockerStand
from tests.local.test_foreign import PROJECTS, download, unpack

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", sorted(PROJECTS))
def test_a_public_project_comes_up_unmodified_on_docker(name: str, tmp_path: Path) -> None:
    project = PROJECTS[name]
    with contextlib.closing(DockerStand(name=name)) as stand:
        stand.file.unlink()
        source = unpack(download(project, tmp_path), stand.root / "source")
        began = time.monotonic()
        directory = str((source / project.directory).relative_to(stand.root))
        result = stand.run("init", stand.name, "--platform", "docker", "--project", directory, *project.options)
        assert result.status == 0, result.output
        result = stand.run("init", stand.name)
        assert result.status == 0, result.output
        if project.secrets:
            subprocess.run(
                ["pulumi", "config", "set", "--secret", "cluster:secret_environment", "--stack", stand.name],
                cwd=stand.root,
                env=stand.environment(),
                input=json.dumps(project.secrets),
                capture_output=True,
                text=True,
                check=True,
            )
            # As it said: without them nothing imports. It finds them where Pulumi keeps them, and leaves them there.
            again = ("--platform", "docker", "--project", directory, "--force", *project.options)
            result = stand.run("init", stand.name, *again)
            assert result.status == 0, result.output
            assert "does not import" not in result.output
        stand.build_on_the_base_alone()
        if project.writes:
            result = stand.up()
            assert result.status != 0
            assert "set app.read_only to false" in result.output, result.output
            document = yaml.safe_load(stand.file.read_text())
            document["config"]["cluster:app"]["read_only"] = False
            stand.file.write_text(yaml.safe_dump(document))
        port = yaml.safe_load(stand.file.read_text())["config"]["cluster:site"]["listen"]
        result = stand.up()
        assert result.status == 0, result.output
        result = stand.verify()
        assert result.status == 0, result.output
        print(f"{project.requirement}: from init to verified in {time.monotonic() - began:.1f} s")
        with httpx.Client(trust_env=False, headers={"Host": "localhost"}) as client:
            found = {path: client.get(f"http://127.0.0.1:{port}{path}").status_code for path in project.pages}
        assert found == project.pages
        assert "no changes" in stand.up().output
