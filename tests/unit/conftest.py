"""No test here asks the Docker engine of the machine it runs on, where there is one."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    # `docker` is what a test puts in its place; at this address nothing is asked without it.
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
