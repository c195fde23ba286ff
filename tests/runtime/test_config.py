"""A release's configuration file, and its secrets."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from cluster_runtime.config import ConfigError, Health, RuntimeConfig, Sessions

if TYPE_CHECKING:
    from pathlib import Path

LEAST = {"release": "one", "project": "/project", "settings": "project.settings", "secrets": "/secrets"}


def load(tmp_path: Path, **values: object) -> RuntimeConfig:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LEAST, **values}))
    return RuntimeConfig.load(path)


def test_what_a_file_leaves_out_has_its_documented_default(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config == RuntimeConfig(**LEAST)  # type: ignore[arg-type]
    assert config.hosts == ("localhost",)
    assert (config.health, config.sessions, config.database) == (Health(), Sessions(), None)


def test_lists_become_tuples_and_objects_become_their_classes(tmp_path: Path) -> None:
    config = load(tmp_path, hosts=["a", "b"], sessions={"memcached": ["/m"]}, health={"retries": 5})
    assert config.hosts == ("a", "b")
    assert config.sessions == Sessions(memcached=("/m",))
    assert config.health == Health(retries=5)
    hash((config.hosts, config.origins, config.sessions))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"weather": "fine"}, "weather"),
        ({"health": {"patience": 1}}, "patience"),
        ({"sessions": {"engines": "db"}}, "engines"),
        ({"hosts": []}, "hosts: must name at least one"),
        ({"hosts": None}, "NoneType"),
    ],
)
def test_an_error_names_the_file_and_what_is_wrong(tmp_path: Path, values: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        load(tmp_path, **values)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_without_the_variable_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLUSTER_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="CLUSTER_CONFIG is not set"):
        RuntimeConfig.from_environment()


def test_a_secret_loses_its_line_end_and_nothing_else(tmp_path: Path) -> None:
    config = load(tmp_path, secrets=str(tmp_path))
    (tmp_path / "secret_key").write_text("  k e y \n")
    assert config.secret("secret_key") == "  k e y "
    assert config.secret("database_url") is None


@pytest.mark.parametrize("what", ["unset", "gone", "closed", "there"])
def test_without_the_secrets_that_systemd_gives_there_is_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Where it can't give any, it leaves a directory that only root enters, or none, and says nothing."""
    given = tmp_path / "given"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    if what != "unset":
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    if what in ("closed", "there"):
        given.mkdir()
        (given / "cluster_secret_key").write_text("key\n")
    if what == "there":
        assert load(tmp_path, secrets="").secret("secret_key") == "key"
        assert load(tmp_path, secrets="").secret("database_url") is None
        return
    real = os.stat

    def stat(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if what == "closed" and str(path).startswith(str(given)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(ConfigError, match="secrets: systemd has given this process none"):
        load(tmp_path, secrets="")


def test_a_secret_that_cannot_be_read_is_named_by_its_path_only(tmp_path: Path) -> None:
    config = load(tmp_path, secrets=str(tmp_path))
    (tmp_path / "secret_key").mkdir()
    with pytest.raises(ConfigError, match=f"{tmp_path}/secret_key: Is a directory"):
        config.secret("secret_key")
