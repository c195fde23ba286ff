"""The checks of what serves, with real requests."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from cluster.services import Kind
from platforms.docker.stack import paths

if TYPE_CHECKING:
    from cluster.checks import Check
    from platforms.docker.stack import DockerStack


class Proof:
    """The checks of what `up` made. They may begin while former instances drain: these get no new request."""

    def __init__(self, docker: DockerStack) -> None:
        self.docker = docker
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._begun: tuple[str, Future[list[Check]]] | None = None

    @staticmethod
    def prepare() -> None:
        """Import what it takes, which takes its time; most commands send no requests."""
        from cluster import verify  # noqa: F401, PLC0415
        from platforms.docker import endpoints  # noqa: F401, PLC0415

    def begin(self, release: str) -> None:
        """Begin to check that `release` serves, as well as everything else."""
        if not self.docker.topology.of_kind(Kind.ACME):  # which is to be waited for
            self._begin(release)

    def _begin(self, release: str) -> None:
        self._begun = release, self._executor.submit(checked, self.docker, release)

    def of(self, release: str) -> list[Check]:
        """Return the checks."""
        if self._begun is None or self._begun[0] != release:
            self._begin(release)
        assert self._begun is not None  # noqa: S101 - for mypy
        with self._executor:
            return self._begun[1].result()


def checked(docker: DockerStack, release: str) -> list[Check]:
    """Check that `release` serves, and everything else."""
    from cluster.verify import verify as verified  # noqa: PLC0415
    from platforms.docker.endpoints import endpoints  # noqa: PLC0415 - most commands send no requests

    authority = paths(docker.stack).shown_authority()
    with endpoints(docker.engine, docker.label, docker.topology, release, authority) as there:
        return verified(docker.topology, there)
