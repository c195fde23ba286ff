"""What end-to-end tests need: Pulumi with its plugins, a Docker engine, and a Debian image to build on."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

#: What the stack files of this repository build on.
BASE = "debian:trixie-slim"

PULUMI_HOME = Path("~/.pulumi").expanduser()
PLUGINS = ("resource-docker-v5.", "resource-command-v1.")

#: Where machines keep the certificates that they trust beyond Debian's own.
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def docker(*arguments: str, check: bool = True, timeout: float = 300) -> str:
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


def gateway() -> str:
    """Return where containers of the engine's own network reach this machine.

    An engine that has just made that network does not say it before its next start, but takes the first address.
    """
    (bridge,) = json.loads(docker("network", "inspect", "bridge"))
    (first, *_) = bridge["IPAM"]["Config"]
    return str(first.get("Gateway") or ipaddress.ip_network(first["Subnet"])[1])


@cache
def missing() -> str:
    """Return what the tests lack on this machine; empty where they can run."""
    path = f"{os.environ.get('PATH', '')}:{PULUMI_HOME / 'bin'}"
    if shutil.which("pulumi", path=path) is None or shutil.which("pulumi-language-python", path=path) is None:
        return "Pulumi's command is not installed (curl -fsSL https://get.pulumi.com | sh)"
    plugins = PULUMI_HOME / "plugins"
    names = [found.name for found in plugins.iterdir()] if plugins.is_dir() else []
    for plugin in PLUGINS:
        if not any(name.startswith(plugin) for name in names):
            return f"Pulumi's plugin {plugin.removesuffix('.')} is not installed (pulumi plugin install)"
    try:
        docker("version", timeout=10)
    except (AssertionError, OSError, subprocess.TimeoutExpired):
        return "no Docker engine answers"
    return missing_base(BASE)


def missing_base(base: str) -> str:
    """See that the engine has an image of Debian: pulled, or made by debootstrap where nothing can be pulled."""
    if docker("image", "ls", "--quiet", base):
        return ""
    pulled = subprocess.run(["docker", "pull", "--quiet", base], capture_output=True, text=True, check=False)
    if pulled.returncode == 0:
        return ""
    debootstrap = shutil.which("debootstrap", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if debootstrap is None or os.geteuid() != 0:
        return f"{base} can't be pulled, nor made (debootstrap, as root)"
    suite = base.partition(":")[2].removesuffix("-slim")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "root"
        made = subprocess.run(
            [debootstrap, "--variant=minbase", "--include=ca-certificates", suite, str(root)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            return f"{base} can't be pulled, nor made: {made.stdout.strip().splitlines()[-1:]}"
        if CERTIFICATES.is_file():
            shutil.copy(CERTIFICATES, root / "etc" / "ssl" / "certs" / CERTIFICATES.name)
        shutil.rmtree(root / "var" / "cache" / "apt" / "archives")
        archive = Path(temporary) / "root.tar"
        subprocess.run(["tar", "-C", str(root), "-cf", str(archive), "."], check=True)
        docker("import", "--change", 'CMD ["bash"]', str(archive), base)
    return ""


if __name__ == "__main__":
    print(missing())
    sys.exit(1 if missing() else 0)
