"""What `status` shows: the same keys on every platform, and those that the guide names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cli.showing import SCHEMA, document, print_checks, print_status, with_drift
from cluster.checks import Check
from cluster.config import parse_config
from cluster.maintenance import Maintenance
from cluster.stack.opened import Stack
from platforms.base import InstanceStatus, NginxStatus, Process, ServiceStatus, Status
from tests.unit.pulumi_mocks import stack_values

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide.md"

STACK = Stack(Path(), "dev", parse_config(stack_values(upstream={"servers": [{"name": "app1"}, {"name": "app2"}]})))


def status(**changes: Any) -> Status:
    process = Process(release="r1", state="serving", since=1.0, pid=7, container=None, message="", sessions=None)
    values: dict[str, Any] = {
        "ok": True,
        "release": "r1",
        "releases": ["r0", "r1"],
        "nginx": NginxStatus(digest="d", current=True, runs=True),
        "store": None,
        "instances": [
            InstanceStatus(instance="app1", share=0.5, release="r1", ok=True, processes=[process]),
            InstanceStatus(instance="app2", share=0.5, release=None, ok=False, processes=[]),
        ],
        "services": [ServiceStatus(service="memcached1", kind="memcached", state="running", ok=True)],
        "maintenance": Maintenance(message="Back at ten.\nSorry.", retry_after=600, allow=("10.0.0.0/8",)),
    }
    return Status(**{**values, **changes})


def paths_of(found: object, above: str = "") -> set[str]:
    """Return the paths of all keys in a document, as the guide writes them: instances[].share."""
    if isinstance(found, dict):
        inside = {f"{above}{name}": value for name, value in found.items()}
        more = [paths_of(value, f"{name}.") for name, value in inside.items() if isinstance(value, dict | list)]
        return set(inside).union(*more)
    if isinstance(found, list):
        return set().union(*(paths_of(one, f"{above.removesuffix('.')}[].") for one in found))
    return set()


def test_the_guide_names_every_key_of_the_json() -> None:
    text = GUIDE.read_text()
    section = text[text.index("### `cluster status --json`") :].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z_.\[\]]+)`", "\n".join(re.findall(r"^\| (.*?) \|", section, re.MULTILINE))))
    assert named == paths_of(document(STACK, status()))
    assert f"`version` is {SCHEMA}" in section


def test_a_person_is_told_of_each_instance_and_service_and_of_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(STACK, status(troubles=["a trouble"], notes=["a note"]), as_json=False)
    said = capsys.readouterr().out
    assert re.search(r"^app1 +50 % +r1 +serving +[-\d]+ [:\d]+ +7 *$", said, re.MULTILINE)
    assert re.search(r"^app2 +50 % +- +not running", said, re.MULTILINE)
    assert re.search(r"^memcached1 +running", said, re.MULTILINE)
    assert "\nmaintenance: all but 10.0.0.0/8 get 503, Retry-After 600 s: Back at ten. / Sorry.\n" in said
    assert said.rstrip().endswith("a note\na trouble")


def test_of_a_site_that_is_not_in_maintenance_nothing_is_said_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(STACK, status(maintenance=None), as_json=False)
    assert "maintenance" not in capsys.readouterr().out
    assert document(STACK, status(maintenance=None))["maintenance"] is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "nginx: current"),
        ({"nginx": NginxStatus(digest="d", current=False, runs=True)}, "nginx: runs another configuration"),
        ({"nginx": NginxStatus(digest=None, current=False, runs=True)}, "nginx: runs, and does not answer"),
        ({"nginx": NginxStatus(digest=None, current=False, runs=False)}, "nginx: not running"),
        ({"release": None}, "release: not the same everywhere"),
        ({"release": None, "instances": []}, "release: none"),
    ],
)
def test_a_line_says_how_nginx_is_and_which_release_serves(
    changes: dict[str, Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_status(STACK, status(**changes), as_json=False)
    assert words in capsys.readouterr().out


def test_a_container_stands_in_the_place_of_a_process_id(capsys: pytest.CaptureFixture[str]) -> None:
    process = Process(release="r1", state="serving", since=None, pid=7, container="c0ffee", message="", sessions=None)
    one = InstanceStatus(instance="app1", share=0.5, release="r1", ok=True, processes=[process])
    print_status(STACK, status(instances=[one]), as_json=False)
    assert re.search(r"^app1 .* c0ffee *$", capsys.readouterr().out, re.MULTILINE)


def test_what_a_project_says_is_no_markup_and_nothing_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    process = Process(
        release="r1", state="starting", since=None, pid=7, container=None, message="[red]\x1b[31mx", sessions=None
    )
    one = InstanceStatus(instance="app1", share=0.5, release="r1", ok=True, processes=[process])
    print_status(STACK, status(instances=[one], store={"engine": ["what?"]}), as_json=False)
    said = capsys.readouterr().out
    assert "[red]" in said
    assert "\x1b" not in said
    assert "makes no sense" in said


def test_checks_are_json_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    found_ok = {"one": True, "two": False, "three": None}
    checks = [Check(name=name, ok=ok, expected="a", found="b") for name, ok in found_ok.items()]
    assert print_checks(checks, as_json=True) is False
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], [one["ok"] for one in found["checks"]]) == (False, [True, False, None])
    assert print_checks(checks[::2], as_json=False) is True
    assert re.search(r"^ok +one", capsys.readouterr().out, re.MULTILINE)


def test_what_was_changed_by_hand_is_shown_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    print_status(STACK, status(), as_json=False)
    assert "by hand" not in capsys.readouterr().out
    print_status(STACK, with_drift(status(), ()), as_json=False)
    assert "nothing was changed by hand\n" in capsys.readouterr().out
    found = with_drift(status(ok=True), ("app1 is stopped",))
    print_status(STACK, found, as_json=False)
    assert "changed by hand, or broken:\n  app1 is stopped\n" in capsys.readouterr().out
    assert not found.ok
    assert document(STACK, found)["drift"] == ("app1 is stopped",)
