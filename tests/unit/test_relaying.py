"""What a host does for other hosts is put in place whole or not at all, and kept until nobody asks for it any more."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.render.internal import DIGEST_PLACE
from platforms.remote.host import relaying, sending, site
from platforms.remote.host.paths import HostPaths
from platforms.remote.host.running import HostError
from platforms.remote.looked import check_name
from platforms.remote.ssh import HostError as NotThere
from tests.unit.remote_machine import Machine, archive, set_up

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A host whose nginx tells at once what the file in place says."""
    made = Machine(tmp_path / "machine", monkeypatch)
    set_up(made)

    def told(_socket: Path, _url: str) -> str | None:
        text = made.places.relay_site.read_text() if made.places.relay_site.is_file() else ""
        return text.partition("digest ")[2].partition(";")[0] or None

    monkeypatch.setattr(site, "ask", told)
    monkeypatch.setattr(relaying, "ask", told)
    return made


def wanted(machine: Machine, *names: str, text: str = "server {}", key: str = "KEY") -> dict[str, Any]:
    places = machine.places
    main = f"sites-available/{places.relay_site.name}"
    return {
        "files": {
            main: f"digest {DIGEST_PLACE};\n",
            **{f"{places.relay_files}/{name}.conf": f"{text} # {name}\n" for name in names},
        },
        "private": {str(places.shown / "certificate.key"): key, str(places.shown / "authority.pem"): "CA"},
        "polite": False,
    }


def there(machine: Machine) -> list[str]:
    return sorted(path.stem for path in machine.places.relay_files.glob("*.conf"))


def test_an_instance_that_has_gone_keeps_its_port_until_nobody_asks(machine: Machine) -> None:
    relaying.deliver(machine.places, wanted(machine, "app1", "app2"))
    relaying.deliver(machine.places, wanted(machine, "app2", "app3"))
    assert there(machine) == ["app1", "app2", "app3"]
    relaying.trim(machine.places, ["app2", "app3"], polite=False)
    assert there(machine) == ["app2", "app3"]
    assert relaying.found(machine.places)["runs"] is True


def test_what_is_in_place_already_reloads_nothing(machine: Machine) -> None:
    relaying.deliver(machine.places, wanted(machine, "app1"))
    before = machine.tree()
    machine.said.unlink()
    relaying.deliver(machine.places, wanted(machine, "app1"))
    relaying.trim(machine.places, ["app1"], polite=False)
    assert machine.tree() == before
    assert not any("load" in line or "start" in line for line in machine.asked())


def test_the_digest_is_of_all_that_it_does(machine: Machine) -> None:
    def digest(**more: str) -> str:
        relaying.deliver(machine.places, wanted(machine, "app1", **more))
        return machine.places.relay_site.read_text()

    found = [digest(), digest(text="server { }"), digest(key="OTHER"), digest()]
    assert len(set(found)) == 3
    assert found[0] == found[3]
    assert DIGEST_PLACE not in found[0]


def edited(machine: Machine, what: str) -> None:
    path = {
        "instance": machine.places.relay_files / "app1.conf",
        "key": machine.places.shown / "certificate.key",
        "main": machine.places.relay_site,
    }[what]
    path.write_text("# edited\n" + path.read_text())


@pytest.mark.parametrize("what", ["instance", "key", "main"])
def test_what_somebody_edits_is_seen_and_put_right(machine: Machine, what: str) -> None:
    relaying.deliver(machine.places, wanted(machine, "app1"))
    before = machine.tree()
    assert relaying.found(machine.places)["runs"] is True
    edited(machine, what)
    assert relaying.found(machine.places)["runs"] is False
    relaying.deliver(machine.places, wanted(machine, "app1"))
    assert machine.tree() == before
    assert relaying.found(machine.places)["runs"] is True


def test_what_nginx_refuses_leaves_all_as_it_was(machine: Machine) -> None:
    relaying.deliver(machine.places, wanted(machine, "app1"))
    before = machine.tree()
    with pytest.raises(HostError, match=r"(?s)nginx -t refuses.*unknown directive"):
        relaying.deliver(machine.places, wanted(machine, "app1", "app2", text="no_such_directive;", key="OTHER"))
    assert machine.tree() == before
    assert relaying.found(machine.places)["runs"] is True


def test_the_first_that_nginx_refuses_leaves_nothing(machine: Machine) -> None:
    before = machine.tree()
    with pytest.raises(HostError, match="nginx -t refuses"):
        relaying.deliver(machine.places, wanted(machine, "app1", text="no_such_directive;"))
    assert machine.tree() == before
    assert relaying.found(machine.places) == {"files": {}, "runs": False}


def test_what_trimming_would_break_stays(machine: Machine) -> None:
    relaying.deliver(machine.places, wanted(machine, "app1", "app2"))
    before = machine.tree()
    broken = machine.places.nginx / "sites-enabled" / "theirs"
    broken.write_text("no_such_directive;")
    with pytest.raises(HostError, match="nginx -t refuses"):
        relaying.trim(machine.places, ["app2"], polite=False)
    broken.unlink()
    assert machine.tree() == before


def modes(machine: Machine) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in machine.places.shown.iterdir()}


def test_what_it_shows_is_its_own_alone_also_when_it_is_put_back(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = {"certificate.key": 0o600, "authority.pem": 0o600}
    relaying.deliver(machine.places, wanted(machine, "app1"))
    assert modes(machine) == private
    seen: list[int] = []
    copied: Callable[..., Any] = shutil.copyfileobj

    def watched(source: Any, to: Any, *more: Any) -> None:
        if Path(to.name).parent == machine.places.shown:
            seen.append(os.fstat(to.fileno()).st_mode & 0o077)
        copied(source, to, *more)

    monkeypatch.setattr(shutil, "copyfileobj", watched)
    monkeypatch.setattr(shutil, "_USE_CP_SENDFILE", False, raising=False)
    with pytest.raises(HostError):
        relaying.deliver(machine.places, wanted(machine, "app1", text="no_such_directive;", key="OTHER"))
    assert modes(machine) == private
    assert (machine.places.shown / "certificate.key").read_text() == "KEY"
    assert seen
    assert set(seen) == {0}, "while it was put back others could read it"


def test_where_nobody_asks_any_more_nothing_is_left_but_what_it_shows(machine: Machine) -> None:
    relaying.deliver(machine.places, wanted(machine, "app1"))
    relaying.trim(machine.places, [], polite=False)
    assert there(machine) == []
    assert machine.places.relay_site.name not in " ".join(machine.tree())
    assert relaying.found(machine.places) == {"files": {}, "runs": False}
    relaying.trim(machine.places, [], polite=False)


def test_removing_a_stack_takes_it_and_leaves_others(machine: Machine) -> None:
    relaying.deliver(machine.places, wanted(machine, "app1"))
    site.remove(machine.places)
    assert [name for name in machine.tree() if "cluster-shop" in name] == []
    assert machine.tree()["sites-enabled/blog"] == "../sites-available/blog"


def test_what_nginx_has_of_a_stack_is_no_other_stack_s() -> None:
    one, other = HostPaths("shop"), HostPaths("shop-nginx")
    assert one.nginx_run == other.sockets
    check_name("shop-nginxes")
    with pytest.raises(NotThere, match="not ending in -nginx"):
        check_name("shop-nginx")


# --- static files of another host's


def sent(*members: tuple[str, str | None, str]) -> bytes:
    return archive(*members, (sending.WHOLE, "", "file"))


def test_static_files_come_as_they_are(machine: Machine) -> None:
    first = sent(("static/a.css", "a", "file"), ("static/b.css", "a.css", "link"))
    sending.receive_static(machine.places, "r1", io.BytesIO(first))
    there_now = machine.places.static / "r1" / "static"
    assert (there_now / "b.css").read_text() == "a"
    # Again, and other ones: the new ones alone are there.
    sending.receive_static(machine.places, "r1", io.BytesIO(sent(("static/c.css", "c", "file"))))
    assert [path.name for path in there_now.iterdir()] == ["c.css"]


WHOLE = sent(*((f"static/{number}.css", os.urandom(300).hex(), "file") for number in range(20)))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.95, 0.999])
def test_what_was_cut_off_is_not_there(machine: Machine, share: float) -> None:
    with pytest.raises(HostError, match="static files of release r1 did not come whole"):
        sending.receive_static(machine.places, "r1", io.BytesIO(WHOLE[: int(len(WHOLE) * share)]))
    assert [path.name for path in machine.places.static.iterdir() if "r1" in path.name] == []


@pytest.mark.parametrize(
    "members",
    [
        (("../out", "x", "file"),),
        (("static/../../../out", "x", "file"),),
        (("/tmp/out-of-cluster", "x", "file"),),
        (("static/dev", None, "device"),),
        (("way", "{out}", "link"), ("way/file", "x", "file")),
        (("way", "..", "link"), ("way/file", "x", "file")),
        (("a", "{out}/file", "link"), ("a", "x", "file")),
        (("a", "x", "file"), ("a/b", "x", "file")),
        (("a", "x", "file"), ("a", "y", "file")),
        (("a", "x", "file"), ("a", "y", "link")),
    ],
)
def test_what_leads_out_or_is_there_already_is_refused_in_a_line(
    machine: Machine, tmp_path: Path, members: tuple[tuple[str, str, str], ...]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    told = [(name, None if text is None else text.format(out=out), kind) for name, text, kind in members]
    with pytest.raises(HostError, match="did not come whole"):
        sending.receive_static(machine.places, "r1", io.BytesIO(sent(*told)))
    assert list(out.iterdir()) == []
    assert not Path("/tmp/out-of-cluster").exists()
    assert [path.name for path in machine.places.static.iterdir() if "r1" in path.name] == []


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.BLKTYPE, tarfile.CONTTYPE])
def test_no_other_kind_of_file_is_taken(machine: Machine, kind: bytes) -> None:
    text = io.BytesIO()
    with tarfile.open(fileobj=text, mode="w:gz") as made:
        member = tarfile.TarInfo("static/x")
        member.type, member.linkname = kind, "/etc/passwd"
        made.addfile(member)
        made.addfile(tarfile.TarInfo(sending.WHOLE))
    if kind == tarfile.CONTTYPE:  # an old word for a file
        sending.receive_static(machine.places, "r1", io.BytesIO(text.getvalue()))
        return
    with pytest.raises(HostError, match="not what a release holds"):
        sending.receive_static(machine.places, "r1", io.BytesIO(text.getvalue()))


def test_a_link_in_place_of_the_directory_is_not_written_through(machine: Machine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "kept").write_text("x")
    (machine.places.static / ".r1.new").symlink_to(out)
    with pytest.raises(HostError):
        sending.receive_static(machine.places, "r1", io.BytesIO(WHOLE))
    assert [path.name for path in out.iterdir()] == ["kept"]
