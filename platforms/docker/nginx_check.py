"""The stack's nginx that is asked whether it takes a configuration, in a container that is gone afterwards."""

from __future__ import annotations

import base64
import io
import posixpath
import secrets
import tarfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cluster.plan.nginx_check import Checker, UncheckedError
from cluster.render.versions import version_in_image
from platforms.docker.container_paths import base_image
from platforms.docker.engine import ROLE_LABEL, STACK_LABEL, EngineError
from platforms.docker.scripts import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.plan.nginx_check import Tree
    from cluster.render.versions import Version
    from platforms.docker.engine import Engine
    from platforms.docker.stack import DockerStack

#: Seconds after which a check's container ends whatever becomes of who asked for it, and that one answer may take.
LIVES, SAID_WITHIN = 600, 90.0


class ContainerChecker(Checker):
    """An nginx in a container without a network, which therefore knows no host by name."""

    resolves = False

    def __init__(self, engine: Engine, container: str, version: Version) -> None:
        super().__init__("nginx", version)
        self.user = None  # it is the container's own, and not root
        self.engine = engine
        self.container = container

    @contextmanager
    def place(self) -> Iterator[str]:
        """Give a directory in the container, which the check makes and removes."""
        yield f"/tmp/ngx-{secrets.token_hex(4)}"  # noqa: S108 - the container's own

    def said(self, tree: Tree) -> str | None:
        """Return all that nginx says of a configuration that it refuses; None where it takes it."""
        script = (HOST / "check.sh").read_text(encoding="utf-8")
        words = ("exec", "--interactive", self.container, "sh", "-c", script, "check", tree.directory)
        try:
            done = self.engine.told(*words, told=_packed(tree), timeout=SAID_WITHIN)
        except EngineError as error:
            raise UncheckedError(str(error)) from error
        return None if done.returncode == 0 else done.stderr


@contextmanager
def checker(docker: DockerStack, nginx: str) -> Iterator[Checker]:
    """Give the nginx of a stack's container, in another one. nginx: the container's id. EngineError says what fails."""
    engine = docker.engine
    (found,) = engine.inspect([nginx])
    confined = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true")  # noqa: S108
    container = engine.run(
        *("run", "--detach", "--rm", "--network", "none", "--log-driver", "none", *confined),
        *("--memory", str(found["HostConfig"]["Memory"]), "--volumes-from", f"{nginx}:ro"),
        *("--label", f"{STACK_LABEL}={docker.label}", "--label", f"{ROLE_LABEL}=task"),
        *("--entrypoint", "sleep", found["Image"], str(LIVES)),
    ).strip()
    try:
        yield ContainerChecker(engine, container, version_in_image(base_image(docker.stack.config, "nginx")))
    finally:
        engine.run("rm", "--force", container)


def _packed(tree: Tree) -> str:
    """Return a check's directory as an archive, base64."""
    sent = io.BytesIO()
    with tarfile.open(fileobj=sent, mode="w") as archive:
        for path in tree.directories:
            archive.addfile(_member(path, tree, tarfile.DIRTYPE))
        for path, text in sorted(tree.files.items()):
            member, content = _member(path, tree, tarfile.REGTYPE), text.encode()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for path, target in sorted(tree.links.items()):
            member = _member(path, tree, tarfile.SYMTYPE)
            member.linkname = target
            archive.addfile(member)
    return base64.b64encode(sent.getvalue()).decode("ascii")


def _member(path: str, tree: Tree, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(posixpath.relpath(posixpath.join(tree.directory, path), tree.directory))
    member.type = kind
    member.mode = 0o700 if kind == tarfile.DIRTYPE else 0o600
    return member


__all__ = ["ContainerChecker", "checker"]
