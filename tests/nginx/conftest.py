"""The nginx that tests here run with: this machine's, and those that were fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.nginx.running import versions

if TYPE_CHECKING:
    from tests.nginx_versions import Nginx


@pytest.fixture(scope="module", params=versions())
def nginx(request: pytest.FixtureRequest) -> Nginx:
    found: Nginx = request.param
    return found
