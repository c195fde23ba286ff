"""The file of the users for whom nginx asks, on this machine: in force with its configuration, and put back with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cluster.machine.nginx import NginxError
from cluster.machine.owner import find_owner
from cluster.render.nginx import SITE, NginxConfig
from platforms.local.nginx import Nginx
from platforms.local.paths import LocalPaths

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORMER, NEW = "ann:$6$former\n", "ann:$6$new\n"
DIGESTS = {"former": "a" * 64, "new": "b" * 64}


@pytest.fixture
def nginx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nginx:
    """An nginx that runs the former configuration and takes any other."""
    found = object.__new__(Nginx)
    found.paths = LocalPaths(tmp_path, "t")
    found.paths.nginx.mkdir(parents=True)
    for digest in DIGESTS.values():
        (found.paths.nginx / digest[:12]).mkdir()
    (found.paths.nginx / "current").symlink_to(DIGESTS["former"][:12])
    found.paths.users.write_text(FORMER)
    found.owner = find_owner(found.paths.state)
    monkeypatch.setattr("platforms.local.nginx.sync_tree", lambda _directory: None)  # of all that the machine writes
    monkeypatch.setattr(Nginx, "live_digest", lambda _self: DIGESTS["former"])
    monkeypatch.setattr(Nginx, "reload", lambda _self, _taken: None)
    return found


def config(users: str) -> NginxConfig:
    return NginxConfig(files={}, links={}, digest=DIGESTS["new"], users=users)


def put_in_place(nginx: Nginx, users: str) -> None:
    nginx.put_in_place(nginx.paths.nginx / DIGESTS["new"][:12], config(users), reload=True)


def test_users_come_with_their_configuration(nginx: Nginx) -> None:
    assert not nginx.has_users(config(NEW))
    put_in_place(nginx, NEW)
    assert nginx.paths.users.read_text() == NEW
    assert nginx.has_users(config(NEW))


def test_users_of_a_configuration_that_nginx_does_not_take_are_not_let_in(
    nginx: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: Nginx, _taken: Callable[[], bool]) -> None:
        assert nginx.paths.users.read_text() == NEW
        raise NginxError("nginx does not take it")

    monkeypatch.setattr(Nginx, "reload", refuse)
    with pytest.raises(NginxError):
        put_in_place(nginx, NEW)
    assert nginx.paths.users.read_text() == FORMER
    assert (nginx.paths.nginx / "current").readlink().name == DIGESTS["former"][:12]


def test_a_configuration_that_asks_nobody_leaves_the_file_until_former_workers_have_ended(
    nginx: Nginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[str] = []
    monkeypatch.setattr(Nginx, "_await_former_workers", lambda self: there.append(self.paths.users.read_text()))
    put_in_place(nginx, "")
    assert there == [FORMER]
    assert not nginx.paths.users.exists()


def test_the_file_goes_once_what_is_in_place_asks_nobody_either(nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nginx, "_check", lambda _self, _directory, *, but_for: None)
    site = nginx.paths.nginx / "current" / SITE
    site.parent.mkdir()
    for text, stays in (("    auth_basic_user_file /users;\n", True), ("", False)):
        site.write_text(text)
        nginx.write(config(""), {})
        assert nginx.paths.users.exists() is stays


def test_what_was_put_in_its_place_by_hand_is_not_followed(nginx: Nginx, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("kept")
    nginx.paths.users.unlink()
    nginx.paths.users.symlink_to(other)
    put_in_place(nginx, NEW)
    assert other.read_text() == "kept"
    assert not nginx.paths.users.is_symlink()
    nginx.paths.users.unlink()
    nginx.paths.users.mkdir()
    put_in_place(nginx, NEW)
    assert nginx.paths.users.read_text() == NEW
