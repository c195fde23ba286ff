"""What hosts keep of a stack, and are asked for by a plan: releases, the site's files, and a check by their nginx."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.plan.compare import compare_code
from cluster.plan.nginx_check import Refusal, UncheckedError
from cluster.plan.planned import FileChange, Kind
from cluster.stack.history import History
from cluster.stack.opened import Stack
from cluster.topology import build_topology
from platforms.base import RELEASE_VARIABLE
from platforms.pulumi.preview import Preview
from platforms.remote import planning
from platforms.remote.host import checking, showing
from platforms.remote.host.running import HostError as ThereError
from platforms.remote.kept import NoReleaseError, changed_parts, fetched, history_of
from platforms.remote.looked import Looked, Seen
from platforms.remote.nginx_check import HostChecker
from platforms.remote.paths import RemotePaths
from platforms.remote.planning import Site
from platforms.remote.ssh import HostError
from tests.unit.pulumi_mocks import SECRETS
from tests.unit.remote_machine import Machine
from tests.unit.remote_stack import (
    FORMER,
    PLACES,
    WANTED,
    Answering,
    digest,
    host,
    keep,
    there,
    values,
)
from tests.unit.test_remote import MACHINE, VALUES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "host", monkeypatch)


def asking(machine: Machine) -> Callable[[str, Mapping[str, str]], dict[str, Any]]:
    def ask(release: str, known: Mapping[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(showing.release(machine.places, release, known)))
        return found

    return ask


def test_a_release_is_put_down_as_the_host_has_it_and_what_is_known_is_not_sent(
    machine: Machine, tmp_path: Path
) -> None:
    project = keep(machine, FORMER, {"a.py": "1\n", "b.py": "same\n", "requirements.txt": "django==5.2\n"})
    (project / "manage.py").chmod(0o755)
    (project / "media").symlink_to("/var/lib/cluster-shop/shared/media")
    (project / "large.js").write_text("x" * (showing.LARGEST + 1))
    same = tmp_path / "same.py"
    same.write_text("same\n")
    known = {"tree/above/example/b.py": same, "tree/above/example/a.py": same}
    said = showing.release(machine.places, FORMER, {path: digest("same\n") for path in known})["files"]
    assert {path for path, one in said.items() if "text" not in one and "link" not in one} == {
        "tree/above/example/b.py",
        "tree/above/example/large.js",
    }
    assert not [path for path in said if "__pycache__" in path]
    config = parse_config(values())
    there = tmp_path / "aside"
    there.mkdir()
    found = fetched(asking(machine), FORMER, config, SECRETS, there, beside=known)
    old = {path: one if isinstance(one, str) else one.read_bytes() for path, one in found.side.tree.items()}
    assert old["media"] == "/var/lib/cluster-shop/shared/media"
    assert (old["a.py"], old["b.py"]) == (b"1\n", b"same\n")
    assert len(old["large.js"]) == showing.LARGEST + 1
    assert os.access(there / "tree" / "above" / "example" / "manage.py", os.X_OK)
    assert found.side.packages == {"django": "5.2"}
    new = {**found.side.tree, "a.py": same, "large.js": same}
    assert compare_code(found.side.tree, new) == (
        FileChange(path="a.py", kind=Kind.CHANGED, added=1, removed=1),
        FileChange(path="large.js", kind=Kind.CHANGED, added=None, removed=None),
    )


def test_a_release_that_is_gone_is_told(machine: Machine) -> None:
    with pytest.raises(ThereError, match=f"release {FORMER} is not here"):
        showing.release(machine.places, FORMER, {})


@pytest.mark.parametrize("path", ["../outside", "/etc/outside", "tree/../../outside", "tree/link/outside"])
def test_what_leads_out_of_a_release_is_none_of_it(path: str, tmp_path: Path) -> None:
    held = {"digest": "", "size": 1, "program": False, "text": base64.b64encode(b"x").decode()}
    files = {"tree/link": {"link": str(tmp_path)}, path: {"link": "/etc"} if "link/" in path else held}
    said = {"config": {}, "environment": "e-3.13", "files": files}
    aside = tmp_path / "aside"
    aside.mkdir()
    with pytest.raises(NoReleaseError, match="not what a release holds"):
        fetched(lambda *_asked: said, FORMER, parse_config(values()), {}, aside, beside={})
    assert {one.name for one in tmp_path.iterdir()} == {"aside"}


def test_the_parts_that_differ_are_told_and_what_no_file_tells_of_is_what_it_runs_on(
    machine: Machine, tmp_path: Path
) -> None:
    def of(name: str, secrets: dict[str, str] = SECRETS, code: str = "1\n", **more: Any) -> Any:
        keep(machine, name, {"a.py": code}, **more)
        (tmp_path / name).mkdir()
        return fetched(asking(machine), name, parse_config(values()), secrets, tmp_path / name, beside={})

    former = of("r0")
    assert changed_parts(former, of("r1")) == ("platform",)
    assert changed_parts(former, of("r2", code="2\n")) == ("code",)
    assert changed_parts(former, of("r3", environment="e2-3.13-x86_64-a")) == ("requirements",)
    assert changed_parts(former, of("r4", environment="e1-3.14-x86_64-a")) == ("python",)
    assert changed_parts(former, of("r5", threads=7)) == ("settings",)
    assert changed_parts(former, of("r6", {"secret_key": "x"})) == ("secrets",)
    other = of("r7")
    assert changed_parts(former, replace(other, runtime={})) == ("runtime",)
    keep(machine, "r8", {"a.py": "1\n"}).joinpath("../../../above").resolve().write_text("another lib")
    (tmp_path / "r8").mkdir()
    other = fetched(asking(machine), "r8", parse_config(values()), SECRETS, tmp_path / "r8", beside={})
    assert changed_parts(former, other) == ("packages",)


def test_of_the_site_s_files_what_not_everybody_may_read_is_not_shown(machine: Machine) -> None:
    places = machine.places
    (places.nginx / "sites-available" / "zz-cluster-shop").write_text("server {}\n")
    for name, mode in (("snippets/http.conf", 0o644), ("key.pem", 0o600), ("users", 0o640)):
        path = places.own_nginx / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
        path.chmod(mode)
    (places.own_nginx / "linked").symlink_to("key.pem")
    snippet = str(places.own_nginx / "snippets/http.conf")
    assert showing.site(places) == {
        "sites-available/zz-cluster-shop": "server {}\n",
        snippet: "snippets/http.conf\n",
    }


def test_a_snippet_is_found_by_the_path_that_the_site_s_file_has_for_it() -> None:
    snippets = {"http": "geo $a {\n    default 1;\n}\n"}
    asked = values(site={**VALUES["site"], "snippets": snippets})
    here = host(there(asked), asked)
    assert here.rendered is not None
    assert here.looked.has_site(here.rendered)
    from platforms.remote.host.look import _called  # noqa: PLC0415 - what a look calls it

    path = PLACES.own_nginx / "snippets" / "http.conf"
    assert _called(PLACES, path) in here.rendered.files


def test_a_check_has_the_host_s_nginx_conf_and_leaves_nothing(machine: Machine) -> None:
    nginx, root = machine.places.nginx, machine.places.root
    (nginx / "nginx.conf").write_text(
        f"pid /run/nginx.pid;\nerror_log /var/log/nginx/error.log;\nhttp {{\n    include {nginx}/mime.types;\n"
        f"    access_log /var/log/nginx/access.log;\n    include {nginx}/conf.d/*.conf;\n"
        f"    include {nginx}/sites-enabled/*;\n}}\n"
    )
    (nginx / "mime.types").write_text("types {}\n")
    directory = "/run/cluster-check-0123abcd"
    seen = root / "seen"
    (root / "programs" / "nginx").write_text(
        f'#!/bin/sh\npwd >{seen}\ncat nginx.conf sites-enabled/zz mime.types >>{seen}\necho "[emerg] no" >&2\nexit 1\n'
    )
    before = machine.tree()
    asked = {
        "directory": directory,
        "directories": [f"{directory}/logs"],
        "files": {"sites-available/zz": "server {}\n", f"{directory}/own/a.conf": "one;\n"},
        "links": {"sites-enabled/zz": "../sites-available/zz"},
    }
    assert checking.check(machine.places, asked) == "[emerg] no\n"
    made = f"{root}{directory}"
    assert seen.read_text() == (
        f"{made}\npid {made}/pid;\nerror_log {made}/log;\nhttp {{\n    include {nginx}/mime.types;\n"
        f"    access_log {made}/log;\n    include {nginx}/conf.d/*.conf;\n"
        f"    include {made}/sites-enabled/*;\n}}\nserver {{}}\ntypes {{}}\n"
    )
    assert machine.tree() == before
    assert list((root / "run").iterdir()) == []
    (root / "programs" / "nginx").write_text("#!/bin/sh\nexit 0\n")
    assert checking.check(machine.places, asked) is None
    (nginx / "nginx.conf").write_text("http {}\n")
    with pytest.raises(ThereError, match="includes no sites-enabled"):
        checking.check(machine.places, asked)
    assert list((root / "run").iterdir()) == []


@pytest.mark.parametrize(
    "asked",
    [
        {"directory": "/etc/nginx"},
        {"directory": "/run/cluster-check-0123abcd/../../etc"},
        {"files": {"../outside": "x"}},
        {"files": {"/etc/outside": "x"}},
        {"links": {"../outside": "x"}},
        {"directories": ["/etc/outside"]},
    ],
)
def test_a_check_writes_nowhere_else(machine: Machine, asked: dict[str, Any]) -> None:
    whole = {"directory": "/run/cluster-check-0123abcd", "directories": [], "files": {}, "links": {}, **asked}
    before = sorted(machine.places.root.rglob("*"))
    with pytest.raises(ThereError, match="of a check"):
        checking.check(machine.places, whole)
    assert sorted(machine.places.root.rglob("*")) == before


def test_what_a_host_s_nginx_refuses_is_told_by_its_key() -> None:
    snippets = {"server": "add_haeder X-A b;\n"}
    asked = parse_config(values(site={**VALUES["site"], "snippets": snippets}))

    def nginx(told: Mapping[str, Any]) -> str | None:
        directory = told["directory"]
        assert "sites-enabled/zz-cluster-shop" in told["links"]
        site = told["files"]["sites-available/zz-cluster-shop"]
        assert f"listen unix:{directory}/site" in site, "no port is taken"
        broken = f"{directory}/snippets/server.conf"
        words = f'2026/01/01 [emerg] 7#7: unknown directive "add_haeder" in {broken}:1\n'
        return words if broken in told["files"] else None

    looked = Looked(host="web1", places=PLACES, machine=MACHINE, stack=there())
    checker = HostChecker(Answering({"check-nginx": nginx}), looked)  # type: ignore[arg-type]
    assert checker.refusals(asked) == [
        Refusal(key="site.snippets.server", words='unknown directive "add_haeder" in snippets/server.conf:1')
    ]
    away = HostChecker(Answering({"check-nginx": HostError("web1: is away")}), looked)  # type: ignore[arg-type]
    with pytest.raises(UncheckedError, match="web1: is away"):
        away.refusals(asked)
    assert away.judged(asked) == ([], ["whether nginx takes its configuration: web1: is away"])


# --- which have served


@pytest.mark.parametrize(
    ("here", "on_the_host", "told"),
    [
        ([], ["r1", "r2"], ["r1", "r2"]),
        (["r2"], ["r1", "r2"], ["r1", "r2"]),
        (["r1", "r2"], ["r1", "r2", "r3"], ["r1", "r2", "r3"]),
        (["r2", "r1"], ["r1", "r2"], ["r2", "r1"]),
        (["r0", "r1", "r2"], ["r1", "r2"], ["r1", "r2"]),
    ],
    ids=["a new checkout", "one that released once", "another released since", "the order here", "gone from the host"],
)
def test_releases_of_other_checkouts_are_those_that_the_hosts_have(
    here: list[str], on_the_host: list[str], told: list[str], tmp_path: Path
) -> None:
    paths = RemotePaths(tmp_path, "shop")
    paths.state.mkdir(parents=True)
    if here:
        History(releases=here, current=here[-1]).save(paths)
    seen: Any = SimpleNamespace(leader=SimpleNamespace(releases=on_the_host, served=on_the_host))
    assert history_of(paths, seen).releases == told


@pytest.mark.parametrize("here", [[], ["r1", "r2"]], ids=["another checkout", "the one that has released"])
def test_a_release_that_failed_is_none_to_go_back_to(here: list[str], tmp_path: Path) -> None:
    """It was sent before the one was made again that serves."""
    paths = RemotePaths(tmp_path, "shop")
    paths.state.mkdir(parents=True)
    if here:
        History(releases=here, current=here[-1]).save(paths)
    seen: Any = SimpleNamespace(leader=SimpleNamespace(releases=["r1", "failed", "r2"], served=["r1", "r2"]))
    found = history_of(paths, seen)
    found.served("r2", rolled_back=True)
    assert (found.releases, found.former()) == (["r1", "r2"], "r1")


# --- releases of hosts with several Pythons

#: A release before FORMER.
OLDEST = "7d5f1c6a0b1e"

SPREAD = values(
    database={"engine": "external"},
    hosts=[
        {**VALUES["hosts"][0], "name": name, "address": f"10.0.0.{number}", "roles": [role]}
        for number, (name, role) in enumerate((("edge1", "nginx"), ("web1", "app"), ("web2", "app")), 11)
    ],
)


def test_of_hosts_with_several_pythons_both_releases_are_compared_on_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    newer, older = ({**MACHINE, "python": [3, minor, 1]} for minor in (13, 11))
    kept = {"edge1": (older, []), "web1": (newer, [FORMER]), "web2": (older, [FORMER, OLDEST])}
    each = {
        name: Looked(host=name, places=PLACES, machine=machine, stack={**there(SPREAD), "releases": releases})
        for name, (machine, releases) in kept.items()
    }
    seen: Any = Seen(each=each, topology=build_topology(parse_config(SPREAD)))
    nobody: Any = None
    asked: list[tuple[str, ...]] = []

    def ssh(host: str, what: str, release: str, **_told: str) -> str:
        asked.append((host, what, release))
        return "{}"

    def asked_for(*_words: Any, target: str, **_more: Any) -> Any:
        asked.append(("here", target))
        return SimpleNamespace(side=None, files={})

    def fetched(ask: Any, release: str, *_words: Any, **_more: Any) -> Any:
        ask(release, {})
        return SimpleNamespace(side=None, files={})

    monkeypatch.setattr(planning, "wanted", asked_for)
    monkeypatch.setattr(planning, "fetched", fetched)
    monkeypatch.setattr(planning, "changed_parts", lambda *_both: ())
    way: Any = SimpleNamespace(run=ssh)
    for former, wanted, expected in (
        (FORMER, WANTED, [("here", "3.13-x86_64-manylinux_2_40"), ("web1", "release", FORMER)]),
        (OLDEST, FORMER, [("web2", "release", FORMER), ("web2", "release", OLDEST)]),
        (FORMER, OLDEST, [("web2", "release", OLDEST), ("web2", "release", FORMER)]),
    ):
        asked.clear()
        back = {} if wanted == WANTED else {RELEASE_VARIABLE: wanted}
        site = Site(Stack(tmp_path, "shop", parse_config(SPREAD)), nobody, way, seen, nobody, None, back)
        aside = tmp_path / f"{former}-{wanted}"
        aside.mkdir()
        planning.Planning(site, Preview(), nobody, aside).sides(former, wanted, None, {})
        assert asked == expected, (former, wanted)
