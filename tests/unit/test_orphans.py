"""What tells a stack's processes where the kernel does not say in which directory they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from cluster.local.orphans import Kind, stack_processes
from cluster.local.places import Places


def refused(_path: Path) -> NoReturn:
    raise PermissionError


@pytest.mark.parametrize(("stack", "found"), [("t", [Kind.MEMCACHED]), ("other", [])])
def test_another_users_memcached_is_known_by_where_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: str, found: list[Kind]
) -> None:
    """Without CAP_SYS_PTRACE, as in a container, even root is not told of other users' processes."""
    listens = Places(tmp_path, "t").memcached_listens(1)
    listens.parent.mkdir(parents=True)
    listens.write_text("import time; time.sleep(60)")
    process = subprocess.Popen(["memcached", "-s", str(listens)], executable=sys.executable)
    try:
        monkeypatch.setattr(Path, "readlink", refused)
        assert [one.kind for one in stack_processes(Places(tmp_path, stack)) if one.pid == process.pid] == found
    finally:
        process.kill()
        process.wait()
