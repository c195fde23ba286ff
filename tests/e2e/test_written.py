"""What a project writes outlives its releases on Docker: uploads, databases, and commands that run for long."""

from __future__ import annotations

import contextlib
import json

import httpx

from tests.e2e.stand import DockerStand
from tests.e2e.tools import docker
from tests.local.test_written import LONG_COMMAND, assert_served_as_files, get, up, upload


def test_uploads_and_commands_outlive_the_releases_on_docker() -> None:
    with contextlib.closing(DockerStand(name="media", case="media")) as stand:
        (stand.project / "media" / "docs").mkdir(parents=True)
        (stand.project / "media" / "docs" / "before.txt").write_text("from before the cluster")
        assert stand.run("init", stand.name).status == 0
        up(stand)
        upload(stand, "photo.txt", b"hello")
        upload(stand, "page.html", b"<script>alert(1)</script>")
        command = stand.start("manage", stand.name, "--", "shell", "-c", LONG_COMMAND.format(stop="/srv/shared/stop"))
        try:
            assert command.stdout is not None
            assert any("began" in line for line in command.stdout), "the command never began"
            for number in range(4):
                stand.edit_code("core/views.py", f"\n# release {number}\n")
                up(stand)
                assert get(stand, "/").text.split()[1:] == ["before.txt", "page.html", "photo.txt"]
            docker("exec", stand.container("app1"), "touch", "/srv/shared/stop")
            assert "the end" in command.stdout.read(), "what it imported later was gone with its release"
            assert command.wait(60) == 0
        finally:
            command.kill()
        assert_served_as_files(stand, plant=lambda link: docker("exec", stand.container("app1"), "ln", "-s", *link))
        stand.edit_stack(lambda stack: stack["app"].update(media=False))
        refused = stand.up()
        assert refused.status == 1
        assert "app.shared: what the project writes to media is kept" in refused.output, refused.output
        stand.edit_stack(lambda stack: stack["app"].pop("media"))
        assert stand.down().status == 0
        up(stand)
        assert get(stand, "/media/docs/photo.txt").text == "hello", "`down` is to keep the data"
        volumes = json.loads(docker("inspect", stand.container("app1")))[0]["Mounts"]
        [shared] = [mount["Name"] for mount in volumes if mount["Destination"] == "/srv/shared"]
        assert stand.run("down", stand.name, "--delete-data", "--yes").status == 0
        assert shared not in docker("volume", "ls", "--quiet").split()


def test_every_database_is_migrated_and_keeps_its_rows_on_docker() -> None:
    with contextlib.closing(DockerStand(name="two", case="second-database")) as stand:
        assert stand.run("init", stand.name).status == 0
        up(stand)
        with httpx.Client(headers={"Host": "localhost"}, timeout=30) as client:
            url = f"http://127.0.0.1:{stand.port}/log"
            assert [client.get(url).text.split()[0] for _ in range(3)] == ["1", "2", "3"]
            stand.edit_code("core/views.py", "\n# v2\n")
            up(stand)
            assert client.get(url).text.split()[0] == "4", "the second database began anew with the release"
