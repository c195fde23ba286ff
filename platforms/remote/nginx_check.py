"""A host's nginx that is asked whether it takes a site's file: beside it, in a directory that is gone afterwards."""

from __future__ import annotations

import json
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cluster.machine.nginx import CHECK_SECONDS
from cluster.plan.nginx_check import Checker, UncheckedError
from cluster.render.shared import Place, render_shared
from platforms.remote.ssh import LOOK_SECONDS, HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.plan.nginx_check import Tree
    from cluster.render.nginx import NginxConfig
    from cluster.render.paths import NginxPaths
    from cluster.tls.certificates import Certificate
    from cluster.topology import Topology
    from platforms.remote.looked import Looked
    from platforms.remote.ssh import Ssh


class HostChecker(Checker):
    """The nginx of a host, with what that has of its own in nginx.conf, and without other sites."""

    def __init__(self, ssh: Ssh, looked: Looked) -> None:
        super().__init__("nginx", looked.nginx)
        self.user = None  # nginx.conf says it
        self.ssh = ssh
        self.looked = looked

    @contextmanager
    def place(self) -> Iterator[str]:
        """Give a directory on the host, which the check makes and removes."""
        yield f"/run/cluster-check-{secrets.token_hex(4)}"

    def said(self, tree: Tree) -> str | None:
        """Return all that nginx says of a configuration that it refuses; None where it takes it."""
        asked = {"directory": tree.directory, "directories": tree.directories, "files": tree.files, "links": tree.links}
        seconds = CHECK_SECONDS + LOOK_SECONDS
        try:
            words = self.ssh.run(self.looked.host, "check-nginx", told=json.dumps(asked), seconds=seconds)
        except HostError as error:
            raise UncheckedError(str(error)) from error
        found: str | None = json.loads(words)
        return found

    def rendered(
        self, topology: Topology, paths: NginxPaths, certificate: Certificate | None, directory: str
    ) -> NginxConfig:
        """Return the site's file, every path of which is in a check's directory."""
        place = Place(name=self.looked.places.name, directory=directory)
        return render_shared(topology, paths, self.version, place, certificate)


__all__ = ["HostChecker"]
