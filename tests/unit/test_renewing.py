"""How a certificate that was renewed comes into nginx on this machine, where that fails."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from cluster.acme.kept import Store
from cluster.machine.nginx import NginxError
from platforms.local import renewing
from platforms.local.paths import LocalPaths
from platforms.local.renewing import TELL_AGAIN, Loading
from platforms.local.supervisor import SupervisorError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "error",
    [
        NginxError("nginx does not take the configuration"),
        SupervisorError("gone"),
        OSError(28, "No space left on device"),
    ],
)
def test_whatever_keeps_nginx_from_loading_is_told_once_in_a_while_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tried, said, now = list[bool](), list[str](), [1000.0]

    def load(*_arguments: object) -> None:
        tried.append(True)
        raise error

    monkeypatch.setattr(renewing, "load_new", load)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    loading = Loading(LocalPaths(tmp_path, "t"), Store(tmp_path / "acme"), said.append)
    for _ in range(5):
        loading.look()
    assert (len(tried), len(said)) == (1, 1)
    assert str(error) in said[0]
    now[0] += TELL_AGAIN
    loading.look()
    assert (len(tried), len(said)) == (2, 2)
