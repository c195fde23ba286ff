"""The nginx of this machine: where it is, and which."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from cluster.errors import ClusterError
from cluster.render.versions import OLDEST

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cluster.render.versions import Version

#: What nginx was configured with where it speaks HTTP/3.
HTTP3_MODULE = "--with-http_v3_module"

#: Seconds that a check may take: it looks up the names of hosts.
CHECK_SECONDS = 60


class NginxError(ClusterError):
    """nginx is missing or too old, or refuses a configuration; the text has its own words."""


def search_path() -> str:
    """Return where programs are looked for: Debian keeps nginx where an ordinary user's PATH does not look."""
    return f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


def find_nginx() -> tuple[str, Version]:
    """Return nginx's path and version; NginxError where it is missing or too old."""
    path = shutil.which("nginx", path=search_path())
    if path is None:
        raise NginxError("nginx is not installed: apt-get install --no-install-recommends nginx")
    version = version_of(path)
    if version < OLDEST:
        text = ".".join(map(str, version))
        raise NginxError(f"nginx {text} ({path}) is too old: {'.'.join(map(str, OLDEST))} or newer is needed")
    return path, version


def version_of(path: str) -> Version:
    """Return what an nginx says of itself; NginxError where it does not."""
    done = subprocess.run([path, "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", done.stderr)
    if found is None:
        raise NginxError(f"{path} -v does not tell a version: {done.stderr.strip()}")
    return int(found[1]), int(found[2]), int(found[3])


def has_http3(path: str) -> bool:
    """Tell whether an nginx was built with HTTP/3."""
    done = subprocess.run([path, "-V"], capture_output=True, text=True, check=False)
    return HTTP3_MODULE in done.stderr.split()


def refusal(program: str, conf: Path, prefix: Path, environment: Mapping[str, str] | None = None) -> str | None:
    """Return what an nginx says of a configuration that it refuses, files by their paths from it; None: it takes it.

    prefix: where relative paths begin. environment: left out, this process's own. TimeoutError where it says nothing.
    """
    command = [program, "-t", "-q", "-p", str(prefix), "-e", "stderr", "-c", str(conf)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=environment,
            timeout=CHECK_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"nginx -t says nothing for {CHECK_SECONDS} s") from error
    return None if done.returncode == 0 else done.stderr.replace(f"{conf.parent}/", "").strip()
