"""nginx on a full disk: it serves on, and only requests that need a file fail, until there is room again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.nginx.running import Running, free_ports, stack, versions
from tests.small_disk import small_disk

if TYPE_CHECKING:
    from tests.nginx_versions import Nginx

REQUESTS = 300


@pytest.fixture(params=versions())
def nginx(request: pytest.FixtureRequest) -> Nginx:
    found: Nginx = request.param
    return found


def test_a_full_disk_costs_only_requests_that_need_a_file(nginx: Nginx) -> None:
    with tempfile.TemporaryDirectory(prefix="cl") as place, small_disk(Path(place, "i"), Path(place, "d")) as disk:
        Path(place).chmod(0o755)

        def on_disk(text: str) -> str:
            if "client_body_temp_path" not in text:
                return text
            own = text.split("client_body_temp_path ")[1].partition("/temp/")[0]
            return text.replace(f"{own}/temp/", f"{disk.path}/").replace(f"{own}/logs/", f"{disk.path}/")

        values = stack(2, listen=free_ports(), client_max_body_size="4m")
        with Running(nginx, values, edit=on_disk) as running:
            assert (disk.path / "access.log").exists()
            assert running.request("/", method="POST", body=bytes(2_000_000)).status == 200
            disk.fill()
            answered = [running.request("/").status for _ in range(REQUESTS)]
            posted = [running.request("/", method="POST", body=bytes(1000)).status for _ in range(REQUESTS)]
            print(
                f"{nginx}: {answered.count(200)} of {REQUESTS} GETs, {posted.count(200)} of {REQUESTS} POSTs answered"
            )
            assert set(answered + posted) == {200}
            disk.fill()  # of what the first one took some may have become free only now
            assert running.request("/", method="POST", body=bytes(2_000_000)).status == 500
            disk.free()
            assert running.request("/", method="POST", body=bytes(2_000_000)).status == 200
