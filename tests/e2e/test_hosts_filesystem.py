"""A filesystem that hosts come to share, and one that they don't; by the real engine."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.e2e.hosts import SHARED, SharingHost, Volume, hosts_stand, sharing
from tests.e2e.uploads import APP, SHARING, Uploads, keep_uploads, share_uploads, up

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


def test_what_was_written_to_a_host_before_is_copied_to_where_all_have_it(directory: Path) -> None:
    """One host gets a filesystem, and then another host, while visitors send files."""
    with (
        contextlib.closing(Volume(1)) as volume,
        hosts_stand(directory, {"web1": ("app", "nginx")}, kinds=sharing({"web1": volume})) as stand,
    ):
        keep_uploads(stand)
        stand.edit_stack(lambda stack: stack["app"].update(APP))
        up(stand)
        web2 = SharingHost(directory, "web2", ("app",), stand.network.place(), volume.name)
        with contextlib.closing(web2):
            before = Uploads(stand)
            with before.under_load(least=100):
                pass
            uploads = Uploads(stand)
            with uploads.under_load():
                stand.edit_stack(lambda stack: stack["app"].update(shared_filesystem=SHARED))
                stand.add(web2)
                up(stand)
            sent_meanwhile = len(uploads.sent)
            uploads.sent |= before.sent
            late = len(uploads.lost)
            uploads.lost.clear()
            uploads.read_again()
            print(f"{uploads}, {sent_meanwhile} of them sent meanwhile, of which {late} reads came before their copy")
            assert not uploads.failed
            assert not uploads.lost
            result = stand.up()
            assert "no changes" in result.output, result.output
            stand.edit_stack(lambda stack: stack["app"].pop("shared_filesystem"))
            stand.edit_stack(lambda stack: stack["hosts"].pop())
            refused = stand.up()
            assert refused.status == 1
            assert f"app.shared_filesystem: web1 has what the project has written at {SHARED}" in refused.output
            stand.edit_stack(lambda stack: stack["app"].update(shared_filesystem=SHARED))
            stand.edit_stack(lambda stack: stack["hosts"].append(web2.in_stack()))
            assert stand.run("down", stand.name, "--delete-data", "--yes").status == 0
            assert not stand.host_there.run("find", SHARED, "-mindepth", "1"), "what was written is deleted"
            stand.edit_stack(lambda stack: stack["hosts"].pop())


class TestSaboteurs:
    def test_hosts_that_share_nothing_are_refused_and_lose_uploads_where_nobody_asks(self, directory: Path) -> None:
        with contextlib.ExitStack() as there:
            each = {
                name: there.enter_context(contextlib.closing(Volume(number)))
                for number, name in enumerate(SHARING, start=2)
            }
            stand = there.enter_context(hosts_stand(directory, SHARING, kinds=sharing(each)))
            share_uploads(stand)
            refused = stand.up()
            assert refused.status == 1
            assert f"has just written at {SHARED} is not there" in refused.output, refused.output
            stand.main("no_proof")
            result = stand.up()
            assert result.status == 1, "`verify` asks, too"
            assert "shared filesystem" in result.output, result.output
            uploads = Uploads(stand)
            with uploads.under_load(least=50):
                pass
            print(f"without a shared filesystem: {uploads}")
            assert len({line.partition(",")[0] for line in uploads.lost}) > len(uploads.sent) // 2
            stand.main()
