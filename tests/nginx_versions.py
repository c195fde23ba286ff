"""The nginx versions that rendered configs are checked with.

Beside the nginx installed on the machine these are those of other Debian suites, unpacked below
`.cache/nginx/<suite>/` in the repository and run there by their own loader and libraries: nothing is
installed, and neither chroot nor root rights are needed. `python -m tests.nginx_versions` fetches them.

Every Debian nginx has paths such as /var/log/nginx and /run/nginx.pid compiled in. To run one without root
rights (or without touching the machine's), pass `-e stderr -p DIR -c FILE` and have FILE set `pid`,
`error_log`, `access_log` and all five of `client_body_temp_path`, `proxy_temp_path`, `fastcgi_temp_path`,
`uwsgi_temp_path` and `scgi_temp_path`. Relative paths are taken from DIR, but `include`s, `ssl_certificate`s
and the like from the directory of FILE.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SUITES = ("trixie", "forky")
CACHE = Path(__file__).resolve().parent.parent / ".cache" / "nginx"
MIRROR_VARIABLE = "NGINX_DEBIAN_MIRROR"

# Each suite is signed by the keys of its own and of the preceding Debian release, so that the machine's
# keyring also verifies suites newer than itself.
_KEYRINGS = tuple(Path(f"/usr/share/keyrings/debian-archive-keyring.{suffix}") for suffix in ("gpg", "pgp"))

# Read after the machine's own configuration, of which it keeps how to reach the mirror (proxy, credentials),
# but not the hooks: these may clean up the machine's own cache. The sandbox user might not be able to enter
# the private directory.
_APT_CONF = """\
#clear APT::Default-Release;
#clear APT::Update;
#clear DPkg;
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Dir::State "{root}/state";
Dir::State::status "{root}/state/status";
Dir::Cache "{root}/cache";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"""


class NginxUnavailable(Exception):  # noqa: N818
    """An nginx can't be had on this machine; the message is the reason, in one line."""


@dataclass(frozen=True)
class Nginx:
    """An nginx that can be run.

    `command` is the start of an argv, to be followed by nginx's own arguments. `nginx -t`, daemons, their
    workers and signals work as usual, with two exceptions for an nginx of another suite: an upgrade of the
    running binary (USR2) is not supported, and in process lists it goes by its loader's name, so that its
    processes are to be found by the pid file and not by the name or title.
    """

    version: tuple[int, int, int]
    command: tuple[str, ...]

    def __str__(self) -> str:
        return "nginx " + ".".join(map(str, self.version))


def installed_nginx() -> Nginx | None:
    """The machine's own nginx, in PATH or /usr/sbin, or None if there is none that runs."""
    path = shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin")
    try:
        return _probe((path,)) if path else None
    except NginxUnavailable:
        return None


def nginx_versions() -> list[Nginx]:
    """The installed nginx and the fetched ones, without fetching any: one for each version, oldest first."""
    found = {}
    for tree in CACHE.glob("[!.]*"):
        try:
            nginx = _probe(_command(tree))
        except NginxUnavailable:
            continue
        found[nginx.version] = nginx
    if installed := installed_nginx():
        found[installed.version] = installed
    return [found[version] for version in sorted(found)]


def fetch(suite: str) -> Nginx:
    """The nginx of a Debian suite, from the cache or else from the Debian mirror that the machine's apt uses.

    What is cached is never renewed; remove `.cache/nginx/<suite>` to get the suite's present nginx. On a
    machine whose apt knows no Debian mirror, one can be given in the environment as NGINX_DEBIAN_MIRROR.
    The machine's debian-archive-keyring verifies the suite. Raises NginxUnavailable.
    """
    tree = CACHE / suite
    if not tree.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{suite}-", dir=CACHE) as root:
            unpacked = Path(root, "tree")
            for package in _download(suite, Path(root)):
                _run("dpkg-deb", "-x", str(package), str(unpacked))
            _probe(_command(unpacked))
            try:
                unpacked.rename(tree)
            except OSError:
                if not tree.is_dir():  # else another process was faster
                    raise
    return _probe(_command(tree))


def _download(suite: str, root: Path) -> list[Path]:
    """Download the suite's nginx and all that it depends on, by an apt that lives in root."""
    keyring = next((path for path in _KEYRINGS if path.exists()), None)
    if keyring is None:
        raise NginxUnavailable("debian-archive-keyring is not installed")
    architecture = _run("dpkg", "--print-architecture").stdout.strip()
    for directory in ("state", "cache"):
        (root / directory).mkdir()
    (root / "state" / "status").touch()  # nothing is installed, hence every dependency gets downloaded
    (root / "apt.conf").write_text(_APT_CONF.format(root=root))
    apt_get = ("apt-get", "-c", str(root / "apt.conf"))
    reasons = []
    for mirror in _mirrors():
        options = f"arch={architecture} signed-by={keyring} target=Packages"
        (root / "sources.list").write_text(f"deb [{options}] {mirror} {suite} main\n")
        try:
            _run(*apt_get, "update")
        except NginxUnavailable as error:
            reasons.append(str(error))
            continue
        _run(*apt_get, "--yes", "--download-only", "install", "nginx")
        return sorted((root / "cache" / "archives").glob("*.deb"))
    raise NginxUnavailable(reasons[0] if reasons else f"apt has no sources; set {MIRROR_VARIABLE}")


def _mirrors() -> list[str]:
    """The addresses that may be a Debian mirror's; which of them is one, the keyring tells."""
    if mirror := os.environ.get(MIRROR_VARIABLE):
        return [mirror]
    # Without the release info, sources are listed even if the machine's own lists have been removed.
    columns = ("--no-release-info", "--format", "$(SITE)", "Created-By: Packages", "Component: main")
    return list(dict.fromkeys(_run("apt-get", "indextargets", *columns).stdout.splitlines()))


def _command(tree: Path) -> tuple[str, ...]:
    """How to run the nginx in a tree of unpacked packages."""
    for loader in sorted(tree.glob("usr/lib/*/ld*.so.?")) + sorted(tree.glob("lib/*/ld*.so.?")):
        libraries = ":".join(str(tree / lib / loader.parent.name) for lib in ("usr/lib", "lib"))
        nginx = str(tree / "usr/sbin/nginx")
        return (str(loader), "--inhibit-cache", "--library-path", libraries, nginx)
    raise NginxUnavailable(f"no loader in {tree}; remove it to have it fetched anew")


def _probe(command: tuple[str, ...]) -> Nginx:
    if not (match := re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", _run(*command, "-v").stderr)):
        raise NginxUnavailable(f"{command[-1]} -v doesn't tell a version")
    major, minor, patch = map(int, match.groups())
    return Nginx((major, minor, patch), command)


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command; raises NginxUnavailable if it fails."""
    try:
        done = subprocess.run(
            argv,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=300,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NginxUnavailable(str(error)) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        errors = [line for line in lines if line.startswith("E: ")]
        raise NginxUnavailable(f"{Path(argv[0]).name}: {(errors or lines[-1:])[0].removeprefix('E: ')}")
    return done


def main() -> int:
    installed = installed_nginx()
    print(f"installed: {installed or 'none'}")
    for suite in SUITES:
        try:
            print(f"{suite}: {fetch(suite)}")
        except NginxUnavailable as error:
            print(f"{suite}: unavailable: {error}")
    return 0 if installed else 1


if __name__ == "__main__":
    sys.exit(main())
