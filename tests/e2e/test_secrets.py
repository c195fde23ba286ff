"""No secret is anywhere but in the files that one user reads."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.stand import DockerStand
from tests.e2e.tools import docker

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVIRONMENT_VALUE = "of-the-project-29fd81c3"
SECRETS = {
    "cluster:secret_key": "key-that-nobody-may-see-7f3a91",
    "cluster:secret_key_fallbacks": json.dumps(["former-key-that-nobody-may-see-55aa"]),
    "cluster:secret_environment": json.dumps({"PROJECT_TOKEN": ENVIRONMENT_VALUE}),
}
CHANGED = "another-of-the-project-0c4d77e1"
WORDS = ("key-that-nobody-may-see-7f3a91", "former-key-that-nobody-may-see-55aa", ENVIRONMENT_VALUE, CHANGED)


@pytest.fixture(scope="module")
def outputs() -> list[str]:
    return []


@pytest.fixture(scope="module")
def stand(outputs: list[str]) -> Iterator[DockerStand]:
    with contextlib.closing(DockerStand(name="x")) as found:
        outputs.append(found.run("init", found.name).output)
        for name, value in SECRETS.items():
            done = subprocess.run(
                ["pulumi", "config", "set", "--secret", name, "--stack", found.name],
                cwd=found.root,
                env=found.environment(),
                input=value,
                capture_output=True,
                text=True,
                check=True,
            )
            outputs.append(done.stdout + done.stderr)
        result = found.up()
        outputs.append(result.output)
        assert result.status == 0, result.output
        yield found


def test_a_secret_is_in_no_output_state_inspection_image_or_environment(stand: DockerStand, outputs: list[str]) -> None:
    seen = {"outputs of init, config and up": "\n".join(outputs)}
    stand.edit_code("visits/views.py", "\nfrom django.conf import settings\nraise RuntimeError(settings.SECRET_KEY)\n")
    result = stand.up()
    assert result.status != 0
    assert "[secret_key]" in result.output, f"the failure was not told, or not masked: {result.output}"
    seen["output of a release that prints the key"] = result.output
    seen["pulumi up of the same"] = stand.pulumi("up", "--yes", "--skip-preview").stdout
    stand.edit_code("visits/views.py", "")
    seen["pulumi preview --diff"] = stand.pulumi("preview", "--diff").stdout
    seen["up"] = stand.up().output
    seen["state"] = (stand.pulumi("stack", "export")).stdout
    seen["state's files"] = "\n".join(path.read_text() for path in (stand.root / "state").rglob("*.json*"))
    seen["logs"] = stand.run("logs", stand.name, "-n", "1000").output
    seen["status"] = stand.run("status", stand.name, "--json").output
    seen["build contexts"] = "\n".join(
        path.read_text(errors="replace") for path in (stand.root / ".cluster").rglob("*") if path.is_file()
    )
    stand.keep_secret("secret_environment", json.dumps({"PROJECT_TOKEN": CHANGED}))
    for form in ("--text", "--markdown", "--json"):
        seen[f"plan {form}"] = stand.run("plan", stand.name, form).output
        assert "PROJECT_TOKEN" in seen[f"plan {form}"], "the change is not named"
    stand.keep_secret("secret_environment", SECRETS["cluster:secret_environment"])
    for container in stand.containers(stopped=True):
        seen[f"inspect {container[:12]}"] = docker("inspect", container)
        image = docker("inspect", "--format", "{{.Image}}", container)
        seen[f"image {image[:20]}"] = docker("history", "--no-trunc", image) + docker("inspect", image)
        seen[f"arguments {container[:12]}"] = docker("top", container, "-eo", "args", check=False)
        pid = docker("inspect", "--format", "{{.State.Pid}}", container)
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        seen[f"environment {container[:12]}"] = environment.decode(errors="replace")
    password = docker("exec", stand.containers("postgres")[0], "cat", "/srv/database/password")
    assert len(password) == 40
    found = [f"{where}: {word}" for where, text in seen.items() for word in (*WORDS, password) if word in text]
    assert found == []
    print(f"{len(WORDS) + 1} secrets looked for in {len(seen)} places: found in 0 of them")


def test_each_secret_is_a_file_that_one_user_reads(stand: DockerStand) -> None:
    app = stand.container("app1")
    listing = docker("exec", app, "sh", "-c", "stat -L -c '%a %u %n' /srv/secrets/*/* /srv/database/url")
    lines = [line.split() for line in listing.splitlines()]
    assert {name.rpartition("/")[2] for _mode, _user, name in lines} >= {"secret_key", "secret_environment", "url"}
    assert {(mode, user) for mode, user, _name in lines} == {("400", "10001")}
    assert docker("exec", app, "cat", "/srv/database/password", check=False) == "", (
        "an instance reads PostgreSQL's file"
    )
    (nginx,) = stand.containers("nginx")
    # Static files, the uploads that it serves, the page of maintenance: neither secrets nor the database.
    assert docker("exec", nginx, "ls", "/srv", check=False).split() == ["maintenance", "shared", "static"]


def test_the_looking_finds_a_secret_where_there_is_one(stand: DockerStand) -> None:
    """The saboteur of the test above: a plain value does show in the places that it looks at."""
    marker = "plain-value-that-may-be-seen-813c"
    stand.edit_stack(lambda stack: stack["app"].update(environment={"PLAIN": marker}))
    assert stand.up().status == 0
    contexts = [path for path in (stand.root / ".cluster").rglob("config.json") if marker in path.read_text()]
    assert contexts
