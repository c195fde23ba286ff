"""A host's root in a directory of this machine, for what its commands do there."""

from __future__ import annotations

import grp
import io
import os
import pwd
import tarfile
from typing import TYPE_CHECKING

from platforms.remote.host import receiving, releases, running, setting_up
from platforms.remote.host.paths import HostPaths

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Machine:
    """A host's root in a directory; its programs keep what they are asked, and nginx accepts what `accepts` says."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.places = HostPaths("shop", root)
        self.said = root / "said"
        programs = root / "programs"
        programs.mkdir(parents=True)
        for name in ("systemctl", "systemd-run", "systemd-tmpfiles", "useradd", "userdel", "apt-get", "journalctl"):
            (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >>{self.said}\n')
        (programs / "nginx").write_text(
            "#!/bin/sh\n"
            f"if grep -rqs no_such_directive {root}/etc/nginx; then echo 'unknown directive' >&2; exit 1; fi\n"
        )
        for program_ in programs.iterdir():
            program_.chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        me = pwd.getpwuid(os.getuid())
        monkeypatch.setattr(pwd, "getpwnam", lambda _name: me)
        monkeypatch.setattr(grp, "getgrnam", lambda _name: grp.getgrgid(os.getgid()))
        monkeypatch.setattr(os, "chown", lambda *_arguments, **_options: None)
        monkeypatch.setattr(os, "fchown", lambda *_arguments: None)
        for module in (receiving, releases):
            monkeypatch.setattr(module, "identity", lambda _places: {})
        monkeypatch.setattr(running, "become", lambda _places: None)
        for path in ("etc/nginx/sites-available", "etc/nginx/sites-enabled", "etc/systemd/system", "run", "srv"):
            (root / path).mkdir(parents=True)
        (root / "var/lib").mkdir(parents=True)
        (root / "etc/nginx/sites-available/blog").write_text("server {}\n")
        (root / "etc/nginx/sites-enabled/blog").symlink_to("../sites-available/blog")

    def asked(self) -> list[str]:
        return self.said.read_text().splitlines() if self.said.exists() else []

    def tree(self) -> dict[str, str]:
        """All files of nginx's directory, and where links lead."""
        top = self.places.nginx
        return {
            str(path.relative_to(top)): str(path.readlink()) if path.is_symlink() else path.read_text()
            for path in sorted(top.rglob("*"))
            if path.is_symlink() or path.is_file()
        }


def archive(*members: tuple[str, str | None, str]) -> bytes:
    """Return a gzipped tar archive of (name, text, kind): a file, a link to `text`, or a device."""
    sent = io.BytesIO()
    with tarfile.open(fileobj=sent, mode="w:gz", compresslevel=1) as made:
        for name, text, kind in members:
            member = tarfile.TarInfo(name)
            member.type = {"file": tarfile.REGTYPE, "link": tarfile.SYMTYPE, "device": tarfile.CHRTYPE}[kind]
            member.linkname = (text or "") if kind == "link" else ""
            content = (text or "").encode() if kind == "file" else b""
            member.size = len(content)
            member.mode = 0o6777
            made.addfile(member, io.BytesIO(content))
    return sent.getvalue()


def a_release(*more: tuple[str, str | None, str]) -> bytes:
    return archive(("tree/manage.py", "", "file"), ("config.json", "{}", "file"), ("environment", "e1", "file"), *more)


def set_up(machine: Machine, owner: str = "django-cluster/shop") -> None:
    texts = {"unit": "unit\n", "nginx_unit": "more\n", "tmpfiles": "d\n", "made_by": "sessions-host"}
    setting_up.set_up(machine.places, {"owner": owner, **texts})
