"""What this machine's platform says without changing anything, and what it makes for what is no longer wanted."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from cluster.config import parse_config
from cluster.console import Terminal
from cluster.errors import CommandError
from cluster.machine.nginx import NginxError
from cluster.machine.owner import find_owner
from cluster.render.nginx import render_nginx
from cluster.services import memcached_node
from cluster.stack.history import History
from cluster.stack.opened import Stack
from cluster.topology import build_topology
from platforms.base import Forward
from platforms.local import platform as local
from platforms.local.comparing import nginx_difference
from platforms.local.paths import LocalPaths
from tests.unit.pulumi_mocks import stack_values

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.lint import Facts
    from cluster.render.nginx import NginxConfig


def on(root: Path, **values: object) -> local.LocalPlatform:
    config: ClusterConfig = parse_config(stack_values(platform="local", **values))
    return local.platform(Stack(root, "t", config), Terminal())


def refuse(*_arguments: object) -> NoReturn:
    raise NginxError("nginx is not installed")


def test_the_lints_look_where_nginx_is_not_installed_and_touch_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "find_nginx", refuse)
    monkeypatch.setattr("platforms.local.site.Nginx", refuse)
    assert on(tmp_path).facts().nginx is None
    assert list(tmp_path.iterdir()) == []


def test_a_secret_that_up_puts_back_is_no_missing_one(tmp_path: Path) -> None:
    paths = LocalPaths(tmp_path, "t")
    kept = paths.releases / "r1" / "secrets"
    kept.mkdir(parents=True)
    (kept / "secret_key").write_text("k")
    (kept / "database_url").write_text("u")
    History(releases=["r1"], current="r1").save(paths)
    assert on(tmp_path).facts().secrets == frozenset({"secret_key", "database_url"})
    paths.secrets.mkdir()
    (paths.secrets / "secret_key").write_text("k")
    assert on(tmp_path).facts().secrets == frozenset({"secret_key"}), "who removes another one wants it removed"


def test_up_asks_the_gate_before_it_holds_the_lock(tmp_path: Path) -> None:
    def gate(config: ClusterConfig, facts: Facts, project: dict[str, object] | None = None) -> None:
        assert (config.platform, facts.stack, project) == ("local", "t", None)
        raise CommandError("a lint forbids it")

    with pytest.raises(CommandError, match="a lint forbids it"), on(tmp_path).change(Forward(), gate):
        pass
    assert not (tmp_path / ".cluster").exists()


def test_nodes_that_a_former_release_alone_wants_have_a_directory(tmp_path: Path) -> None:
    paths = LocalPaths(tmp_path, "t")
    paths.state.mkdir(parents=True)
    owner = find_owner(paths.state)
    config = parse_config(stack_values(sessions={"engine": "db"}))
    paths.make_run(owner, build_topology(config).services)
    names = {path.name for path in paths.run.iterdir()}
    assert "app1" in names
    assert not names & {".memcached", ".nginx", ".database"}
    node = memcached_node(config, 1)
    paths.make_memcached(owner, node)
    assert os.access(paths.listens(node).parent, os.W_OK)


def test_a_change_of_a_snippet_is_said_line_by_line() -> None:
    def rendered(**snippets: str) -> NginxConfig:
        config = parse_config(stack_values(platform="local", site={"snippets": snippets}))
        paths = LocalPaths(Path("/t"), "t").nginx_paths(build_topology(config), None)
        return render_nginx(build_topology(config), paths, (1, 30, 0))

    class InPlace:
        def __init__(self, config: NginxConfig) -> None:
            self.config = config

        def current_text(self, path: str) -> str:
            return self.config.files.get(path, "")

        def has_users(self, config: NginxConfig) -> bool:
            return config.users in {"", self.config.users}

    def said(before: NginxConfig, after: NginxConfig) -> list[str]:
        return nginx_difference(InPlace(before), after)  # type: ignore[arg-type]

    plain, one = rendered(), rendered(server="gzip off;\n")
    two = rendered(server="gzip off;\netag off;", http="map $arg_a $a { default 1; }")
    # A snippet may forbid paths: what could lead around that by dots is refused from then on.
    guard = ["map $request_uri $cluster_untidy {", "    default '';"]
    guard += [r"    '~*^[^?#]*(/|%2f)(\.|%2e){1,2}(/|%2f|[?#]|$)' 1;", "}"]
    refused = ["    if ($cluster_untidy) {", "        return 400;", "    }"]
    for sign, former, latter in (("+", plain, one), ("-", one, plain)):
        told = [f"{sign} {line}" for line in guard] + ["  location / {"] + [f"{sign} {line}" for line in refused]
        assert said(former, latter) == [*told, f"{sign} include snippets/server.conf;", f"{sign} gzip off;"]
    assert said(one, two) == ["+ include snippets/http.conf;", "+ map $arg_a $a { default 1; }", "+ etag off;"]
    assert said(two, two) == []
    ann, zoe = (replace(plain, users=f"{name}:$6$x\n") for name in ("ann", "zoe"))
    assert said(ann, ann) == []
    assert said(ann, zoe) == ["~ users: others, or with other passwords"]
