"""Maintenance on Docker: the program in nginx's container, run with programs that say what they are told to."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from cluster.errors import CommandError
from cluster.maintenance import Maintained, Maintenance, asked_for
from cluster.render.maintenance import digest_of, render_maintenance
from platforms.docker.engine import EngineError
from platforms.docker.images import FILES
from platforms.docker.maintaining import Found, Maintaining
from tests.unit.test_docker_up import LABEL, NGINX, NGINX_CONTAINER, Told, on

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND = asked_for("First $x.", "1m", ["::1"]), asked_for("Second\n</p>", "1h", [])

#: nginx's own socket: what it tells is in a file, which a reload makes of what it reads.
ASK = """#!/bin/sh
here=${0%/usr/*}
[ -e "$here/told" ] || exit 1
[ "$1" != /-/maintenance ] || [ ! -e "$here/former" ] || exit 1
[ "$1" != /-/maintenance ] || cat "$here/told"
"""
RELOAD = """#!/bin/sh
here=${0%/bin/*}
echo reload >>"$here/log"
[ ! -e "$here/deaf" ] || exit 0
sed -n 's/^digest \\(.*\\);/\\1/p' "$here/srv/maintenance/maintenance.map" 2>/dev/null >"$here/told" || true
"""
CHECK = '#!/bin/sh\nhere=${0%/bin/*}\necho check >>"$here/log"\n[ ! -e "$here/refuse" ] || { echo no >&2; exit 1; }\n'
SLEEP = '#!/bin/sh\nhere=${0%/bin/*}\necho "sleep $1 $(cd "$here/var/lib/cluster" && echo closin[g])" >>"$here/log"\n'


@dataclass(frozen=True)
class Container:
    """nginx's container, below a directory. `runs`: whether nginx does."""

    root: Path
    runs: bool = True

    def __post_init__(self) -> None:
        for path in ("srv/maintenance", "var/lib/cluster", "usr/local/lib/cluster", "bin"):
            (self.root / path).mkdir(parents=True)
        programs = {"usr/local/lib/cluster/ask": ASK, "bin/reload": RELOAD, "bin/nginx": CHECK, "bin/sleep": SLEEP}
        for path, text in programs.items():
            (self.root / path).write_text(text)
            (self.root / path).chmod(0o755)
        if self.runs:
            (self.root / "told").write_text("")

    def maintain(self, wanted: Maintenance | None, polite: str = "no") -> subprocess.CompletedProcess[str]:
        words = [polite]
        if wanted is not None:
            file = render_maintenance(wanted)
            words += [file.digest, json.dumps(asdict(wanted)), file.text]
        return self.run(*words)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        text, reloading = ((FILES / "nginx" / name).read_text() for name in ("maintain", "reloading"))
        reloading = reloading.replace("/var/lib/cluster", f"{self.root}/var/lib/cluster")
        (self.root / "usr/local/lib/cluster/reloading").write_text(reloading.replace("kill -HUP 1", "reload"))
        for path in ("/srv/maintenance", "/usr/local/lib/cluster"):
            text = text.replace(path, f"{self.root}{path}")
        return subprocess.run(
            ["/bin/sh", "-c", text, "maintain", *words],
            env={"PATH": f"{self.root}/bin:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def log(self) -> list[str]:
        """Return what was done since this was last asked."""
        path = self.root / "log"
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.strip() for line in found]

    def kept(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in (self.root / "srv/maintenance").iterdir()}


def files(wanted: Maintenance) -> dict[str, str]:
    return {"maintenance.json": json.dumps(asdict(wanted)), "maintenance.map": render_maintenance(wanted).text}


def printed(told: str, wanted: Maintenance | None) -> str:
    return f"{told}\n" + (json.dumps(asdict(wanted)) if wanted else "")


def test_it_is_kept_checked_and_loaded_by_one_reload_and_again_only_where_it_is_another(tmp_path: Path) -> None:
    container = Container(tmp_path)
    for wanted in (FIRST, SECOND, None, FIRST):
        done = container.maintain(wanted)
        assert (done.returncode, done.stdout, done.stderr) == (0, printed(digest_of(wanted), wanted), "")
        assert container.log() == ["check", "reload"]
        assert container.kept() == (files(wanted) if wanted else {})
        done = container.maintain(wanted)
        assert (done.returncode, done.stdout) == (0, printed(digest_of(wanted), wanted))
        assert container.log() == []
        assert container.run().stdout == printed(digest_of(wanted), wanted)


def test_before_an_old_nginx_is_reloaded_busy_connections_end_politely(tmp_path: Path) -> None:
    container = Container(tmp_path)
    assert container.maintain(FIRST, "yes").returncode == 0
    assert container.log() == ["check", "sleep 2 closing", "reload", "sleep 1 closing"]
    assert not (tmp_path / "var/lib/cluster/closing").exists()


@pytest.mark.parametrize("former", [None, SECOND], ids=["none", "another"])
@pytest.mark.parametrize("fault", ["refuse", "deaf"])
def test_what_nginx_does_not_take_is_not_kept(tmp_path: Path, fault: str, former: Maintenance | None) -> None:
    container = Container(tmp_path)
    container.maintain(former)
    container.log()
    (tmp_path / fault).touch()
    done = container.maintain(FIRST)
    assert (done.returncode, done.stdout) == (1, "")
    words = "nginx -t refuses the configuration" if fault == "refuse" else "nginx did not take it within 20 s"
    assert done.stderr.startswith(words)
    assert container.kept() == (files(former) if former else {})
    assert ("reload" in container.log()) is (fault == "deaf")


def test_where_nginx_does_not_run_it_is_kept_and_nothing_else_is_done(tmp_path: Path) -> None:
    container = Container(tmp_path, runs=False)
    (tmp_path / "var/lib/cluster").chmod(0o500)
    assert container.maintain(FIRST).stdout == printed("-", FIRST)
    assert container.kept() == files(FIRST)
    assert container.maintain(None).stdout == printed("-", None)
    assert (container.kept(), container.log()) == ({}, [])


def test_an_nginx_whose_configuration_knows_of_none_is_told_nothing(tmp_path: Path) -> None:
    container = Container(tmp_path)
    (tmp_path / "former").touch()
    assert container.maintain(FIRST).stdout == "?\n"
    assert (container.kept(), container.log()) == ({}, [])


def test_a_command_that_was_killed_before_the_reload_is_ended_by_the_next_one(tmp_path: Path) -> None:
    container = Container(tmp_path)
    for name, text in files(FIRST).items():
        (tmp_path / "srv/maintenance" / name).write_text(text)
    assert container.run().stdout == printed("", FIRST)
    assert container.maintain(FIRST).stdout == printed(digest_of(FIRST), FIRST)
    assert container.log() == ["check", "reload"]


# --- who runs it


@dataclass(frozen=True)
class Asked(Told):
    """An engine whose container prints what it is told to, in turn. ran: the words of each call."""

    prints: list[str] = field(default_factory=list)
    ran: list[tuple[str, ...]] = field(default_factory=list)

    def _run(self, arguments: tuple[str, ...], timeout: float) -> subprocess.CompletedProcess[str]:
        if arguments[0] == "images":
            return subprocess.CompletedProcess(arguments, 0, "nginx-image\n", "")
        if arguments[0] not in ("exec", "run"):
            return super()._run(arguments, timeout)
        self.ran.append(arguments)
        text = self.prints.pop(0)
        failed = text.startswith("error")
        return subprocess.CompletedProcess(arguments, int(failed), "" if failed else text, text if failed else "")


VOLUME = {"urn": "urn:pulumi:dev::p::docker:index/volume:Volume::nginx-maintenance", "id": "maintenance-a1b2c3d"}


def maintaining(root: Path, *prints: str, runs: bool = True, resources: tuple[dict[str, Any], ...] = (VOLUME,)) -> Any:
    engine = Asked(found=[NGINX_CONTAINER] if runs else [], prints=[*prints])
    return Maintaining(on(root, engine), lambda: [*resources]), engine


def test_it_runs_in_nginxs_container_and_is_told_what_nginx_reads(tmp_path: Path) -> None:
    found, engine = maintaining(tmp_path, "\n", printed(digest_of(FIRST), FIRST))
    assert found.maintain(FIRST) == Maintained(changed=True, in_force=True)
    program = ("exec", NGINX, "/usr/local/lib/cluster/maintain")
    file = render_maintenance(FIRST)
    assert engine.ran == [program, (*program, "yes", file.digest, json.dumps(asdict(FIRST)), file.text)]


@pytest.mark.parametrize(
    ("told", "kept", "wanted", "changed"),
    [
        (digest_of(FIRST), FIRST, FIRST, False),
        ("", None, None, False),
        ("", FIRST, FIRST, True),  # a command was killed before the reload
        (digest_of(FIRST), None, None, True),
        (digest_of(FIRST), FIRST, SECOND, True),
        (digest_of(FIRST), FIRST, None, True),
    ],
)
def test_what_is_so_already_is_not_done_again(
    told: str, kept: Maintenance | None, wanted: Maintenance | None, changed: bool, tmp_path: Path
) -> None:
    found, engine = maintaining(tmp_path, printed(told, kept), printed(digest_of(wanted), wanted))
    assert found.maintain(wanted) == Maintained(changed=changed, in_force=True)
    assert len(engine.ran) == 1 + changed


def test_while_the_stack_is_down_it_runs_beside_what_is_kept_with_nothing_else(tmp_path: Path) -> None:
    found, engine = maintaining(tmp_path, printed("-", None), printed("-", FIRST), runs=False)
    assert found.maintain(FIRST) == Maintained(changed=True, in_force=False)
    for words in engine.ran:
        line = " ".join(words)
        for flag in ("--rm", "--network none", "--read-only", "--cap-drop ALL", f"django-cluster.stack={LABEL}"):
            assert flag in line, flag
        assert "--volume maintenance-a1b2c3d:/srv/maintenance" in line
        assert "nginx-image /usr/local/lib/cluster/maintain" in line


def test_where_nothing_could_keep_it_one_is_told_to_come_up_first(tmp_path: Path) -> None:
    first = "`cluster up dev` first"
    never, _ = maintaining(tmp_path / "1", runs=False, resources=())
    with pytest.raises(CommandError, match=f"nothing of stack dev is there that could keep it; {first}"):
        never.maintain(FIRST)
    old, _ = maintaining(tmp_path / "2", "error: exec failed: no such file or directory")
    with pytest.raises(CommandError, match=f"nginx of stack dev was made before .*{first}"):
        old.maintain(FIRST)
    older, _ = maintaining(tmp_path / "3", "?\n")
    with pytest.raises(CommandError, match=f"nginx of stack dev was made before .*{first}"):
        older.maintain(FIRST)
    looked, _ = maintaining(tmp_path / "4", runs=False, resources=())
    assert looked.find() == Found(told=None, kept=None)


def test_what_is_not_of_this_tool_is_told_and_written_over(tmp_path: Path) -> None:
    found, _ = maintaining(tmp_path, "\n{", "\n{", printed(digest_of(FIRST), FIRST))
    looked = found.find()
    assert (looked.hurt, looked.trouble) == (True, None)
    assert found.maintain(FIRST) == Maintained(changed=True, in_force=True)


def test_what_the_program_says_of_a_failure_is_passed_on(tmp_path: Path) -> None:
    found, _ = maintaining(tmp_path, "\n", "error: nginx -t refuses the configuration")
    with pytest.raises(EngineError, match="nginx -t refuses the configuration"):
        found.maintain(FIRST)
