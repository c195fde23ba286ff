"""Which releases, environments and logs are kept on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.kept import remove_tree
from cluster.source import TREE
from cluster.stack.history import KEPT_RELEASES
from cluster_runtime.secret_files import is_held
from platforms.local.state import is_instance, is_service
from platforms.local.written import retire

if TYPE_CHECKING:
    from collections.abc import Container

    from cluster.stack.history import History
    from platforms.local.release import Release
    from platforms.local.site import Site

#: Paths that a message names one by one.
MOST_SHOWN = 5


def forget_old(site: Site, history: History, release: Release) -> None:
    """Remove releases beyond the kept ones, environments that none of them uses, and nginx's old configurations."""
    keep = {*history.releases[-KEPT_RELEASES:], release.digest, history.current, history.former()}
    history.releases = [digest for digest in history.releases if digest in keep]
    history.save(site.paths)
    linked = {link.readlink().parent.name for link in site.paths.static.iterdir() if link.is_symlink()}
    for directory in site.paths.releases.iterdir():
        if directory.name in keep | linked or is_held(directory / "secrets"):
            continue
        try:
            kept = retire(directory, TREE, site.paths.kept)
        except (OSError, RecursionError) as error:  # its project may have made anything there
            site.say(f"release {directory.name} can't be removed, and stays: {error}")
            continue
        if kept:
            shown = ", ".join(kept[:MOST_SHOWN]) + (f" and {len(kept) - MOST_SHOWN} more" if kept[MOST_SHOWN:] else "")
            site.say(
                f"release {directory.name} goes, and its project had written {shown}: moved to "
                f"{site.paths.kept.relative_to(site.paths.root)}; name such paths in app.shared"
            )
    used = {(directory / "environment").resolve() for directory in site.paths.releases.iterdir()}
    for directory in site.paths.environments.iterdir():
        if directory.resolve() not in used:
            remove_tree(directory)
    _forget_logs(site, keep)
    site.nginx.forget_others()


def _forget_logs(site: Site, keep: Container[str | None]) -> None:
    """Remove the logs of releases that are not kept, and of instances that are no more."""
    for log in site.paths.logs.glob("*.log*"):
        program = log.name.partition(".log")[0]
        if is_service(program):
            gone = program.partition("@")[2].partition(".")[0] not in keep
        elif is_instance(program):
            instance, _, digest = program.rpartition("-")
            gone = digest not in keep or instance not in site.topology.names
        else:
            continue
        if gone:
            log.unlink()
