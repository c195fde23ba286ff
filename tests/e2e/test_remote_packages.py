"""Packages that no index has ready for a host: of directories, and those that are more than Python."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.conformance import assert_nothing_lost, assert_up
from tests.e2e.hosts import HostsStand, LoadOfAll, hosts_stand
from tests.e2e.remote import HOST, IMAGE, Host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from tests.local.stand import Result


class Building(Host):
    """A host with a compiler."""

    image = f"{IMAGE}-building"
    text = f"{HOST}RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev python3-dev\n"


#: A package of C, whose setup.py looks around where it is built.
SETUP = """
import json, os, pathlib, socket
from setuptools import Extension, setup

def tried(what, *arguments):
    try:
        found = what(*arguments)
        return sorted(found) if isinstance(found, list) else "done"
    except OSError as error:
        return type(error).__name__

seen = {
    "uid": os.getuid(),
    "network": tried(socket.create_connection, ("@HOST@", 22), 3),
    "srv": tried(os.listdir, "/srv"),
    "run": tried(os.listdir, "/run"),
    "state": [tried(os.listdir, path) for path in map(str, pathlib.Path("/var/lib").glob("cluster-*/secrets"))],
    "etc": tried(pathlib.Path("/etc/left").write_text, "x"),
    "environment": dict(os.environ),
}
pathlib.Path("cluster_fast/seen.py").write_text(f"SEEN = {seen!r}\\n")
setup(name="cluster-fast", version="@VERSION@", packages=["cluster_fast"],
      ext_modules=[Extension("cluster_fast._c", ["c.c"])])
"""

C = """
#include <Python.h>
static PyObject *add(PyObject *self, PyObject *given) {
    long a, b;
    return PyArg_ParseTuple(given, "ll", &a, &b) ? PyLong_FromLong(a + b) : NULL;
}
static PyMethodDef methods[] = {{"add", add, METH_VARARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_c", "", -1, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__c(void) { return PyModule_Create(&module); }
"""

PYPROJECT = """[build-system]
requires = ["setuptools>=68"]
build-backend = "setuptools.build_meta"
"""

LOCAL = f"""{PYPROJECT}[project]
name = "shop-@NAME@"
version = "1"
[tool.setuptools]
packages = ["shop_@NAME@"]
"""


#: What the packages of directories say.
WORDS = "[shop_common.WORD, shop_edited.WORD]"


class PackagesStand(HostsStand):
    """A stand whose project has packages of directories, and one of C, which its requirements pin by its hash."""

    def run(self, *arguments: str, timeout: float = 900, **environment: str) -> Result:
        """Run a command of the tool's; a build takes what a busy machine leaves it."""
        return super().run(*arguments, timeout=timeout, **environment)

    def pin(self, version: str, *more: str) -> None:
        """Let the requirements have a version of the package of C."""
        digest = self.write_sdist(version)
        (self.root / "example" / "requirements.txt").write_text(
            "".join(
                f"{line}\n"
                for line in (
                    *("django>=5.2,<5.3", "psycopg[binary]", "../libs/common", "-e ../libs/edited"),
                    "--find-links ./vendor",
                    f"cluster-fast=={version} --hash=sha256:{digest}",
                    *more,
                )
            )
        )

    def write_sdist(self, version: str) -> str:
        """Write the source of the package of C, as an index has it; return its hash."""
        path = self.root / "example" / "vendor" / f"cluster_fast-{version}.tar.gz"
        path.parent.mkdir(exist_ok=True)
        if path.exists():  # another archive of the same has another hash: when it was made is in it
            return hashlib.sha256(path.read_bytes()).hexdigest()
        setup = SETUP.replace("@VERSION@", version).replace("@HOST@", self.all_hosts[0].address)
        with tarfile.open(path, "w:gz") as archive:
            for name, text in {
                "setup.py": setup,
                "pyproject.toml": PYPROJECT,
                "c.c": C,
                "cluster_fast/__init__.py": "from cluster_fast._c import add\n",
                "PKG-INFO": f"Metadata-Version: 2.1\nName: cluster-fast\nVersion: {version}\n",
            }.items():
                member = tarfile.TarInfo(f"cluster_fast-{version}/{name}")
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def write_local(self, word: str) -> None:
        """Write the packages of directories above the project, of which one is editable."""
        for name in ("common", "edited"):
            there = self.root / "libs" / name
            (there / f"shop_{name}").mkdir(parents=True, exist_ok=True)
            (there / "pyproject.toml").write_text(LOCAL.replace("@NAME@", name))
            (there / f"shop_{name}" / "__init__.py").write_text(f"WORD = {word!r}\n")

    def ask(self, host: Host, expression: str) -> Any:
        """Return what Python says on a host, in the release that serves, with all packages of its."""
        release = f"/srv/cluster/{self.name}/releases/{self.release()}"
        code = (
            f"import json, site; site.addsitedir('{release}/packages'); import cluster_fast, cluster_fast.seen, "
            f"shop_common, shop_edited; print(json.dumps({expression}))"
        )
        return json.loads(host.run(f"{release}/environment/bin/python", "-P", "-c", code))

    def builds(self, host: Host) -> int:
        """Return how often a host was asked to build."""
        unit = f"cluster-{self.name}.build.service"
        return host.run("journalctl", "--unit", unit, "--output=cat", "--no-pager").count("Started")


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PackagesStand]:
    roles: dict[str, tuple[str, ...]] = {"web1": ("app", "nginx"), "web2": ("app",)}
    upstream = {"servers": [{"name": "app1", "host": "web1"}, {"name": "app2", "host": "web2"}]}
    app = {"project": "./example", "settings": "example.settings", "health": {"start_timeout": "2m"}}
    directory = tmp_path_factory.mktemp("packages")
    with hosts_stand(directory, roles, {"web1": Building}, PackagesStand, upstream=upstream, app=app) as found:
        assert isinstance(found, PackagesStand)
        found.write_local("first")
        found.pin("1.0")
        assert_up(found)
        yield found


def test_what_has_no_wheel_is_built_once_on_the_first_host_and_runs_on_both(stand: PackagesStand) -> None:
    first, second = stand.all_hosts
    assert [stand.ask(host, "cluster_fast.add(2, 3)") for host in (first, second)] == [5, 5]
    assert [stand.ask(host, WORDS) for host in (first, second)] == [["first", "first"]] * 2
    copy = f"/srv/cluster/{stand.name}/releases/{stand.release()}/sources/"
    assert [stand.ask(host, "shop_edited.__file__").startswith(copy) for host in (first, second)] == [True, True]
    # It is asked what it is built with, and then for the wheel.
    assert (stand.builds(first), stand.builds(second)) == (2, 0)
    assert second.run("sh", "-c", "command -v gcc", check=False) == ""
    result = stand.up()
    assert (result.status, "no changes" in result.output) == (0, True), result.output


def test_foreign_code_that_is_built_sees_nothing_of_the_host_and_leaves_nothing(stand: PackagesStand) -> None:
    first = stand.all_hosts[0]
    seen = stand.ask(first, "cluster_fast.seen.SEEN")
    assert seen["uid"] not in (0, int(first.run("id", "-u", f"cluster-{stand.name}")))
    assert seen["network"] == "OSError", "it reaches the network"
    assert (seen["srv"], seen["etc"]) == ([], "OSError")
    assert set(seen["run"]) <= {"build", "systemd"}, seen["run"]
    # Outside of the sandbox all of that is there.
    first.run("python3", "-c", f"import socket; socket.create_connection(('{first.address}', 22), 3)")
    assert first.run("ls", "/srv") == "cluster"
    assert len(first.run("ls", "/run").split()) > 5
    assert set(seen["state"]) <= {"PermissionError"}
    known = {"PATH", "HOME", "TMPDIR", "LANG", "PWD", "USER", "LOGNAME", "SHELL", "INVOCATION_ID", "SYSTEMD_EXEC_PID"}
    known |= {"MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE", "JOURNAL_STREAM", "LC_CTYPE", "TERM"}
    assert set(seen["environment"]) <= known, seen["environment"]
    assert first.run("sh", "-c", "ls -d /var/tmp/cluster-*-build-* /var/tmp/systemd-private-*build*", check=False) == ""
    assert first.run("getent", "passwd", str(seen["uid"]), check=False) == ""


def test_a_later_release_with_other_packages_builds_nothing_again(stand: PackagesStand) -> None:
    first, second = stand.all_hosts
    stand.pin("1.0", "six")
    with LoadOfAll(stand, clients=4) as load:
        assert_up(stand)
    print(f"a release whose packages were built before: {load.counts}")
    assert_nothing_lost(load.counts)
    assert [stand.ask(host, "cluster_fast.add(2, 3)") for host in (first, second)] == [5, 5]
    assert (stand.builds(first), stand.builds(second)) == (2, 0)


def test_a_change_of_a_package_above_the_project_is_another_release(stand: PackagesStand) -> None:
    before = stand.release()
    stand.write_local("second")
    planned = stand.run("plan", stand.name)
    assert "local packages above the project" in planned.output, planned.output
    assert_up(stand)
    assert stand.release() != before
    assert [stand.ask(host, WORDS) for host in stand.all_hosts] == [["second", "second"]] * 2


def test_a_compiler_that_is_missing_ends_an_up_in_a_line_and_what_serves_goes_on(stand: PackagesStand) -> None:
    first, before = stand.all_hosts[0], stand.release()
    (compiler,) = first.run("sh", "-c", "readlink -f $(command -v gcc)").split()
    first.run("mv", compiler, f"{compiler}.away")
    stand.pin("1.1")
    builds = stand.builds(first)
    planned = stand.run("plan", stand.name)
    assert "where cluster-fast 1.1 is built: here, or on web1 if it is more than Python" in planned.output
    assert stand.builds(first) == builds, "a plan builds"
    result = stand.up()
    assert result.status == 1, result.output
    assert "cluster-fast 1.1 has no wheel for Python 3.13 on x86_64-manylinux_2_40, and can't be built on web1: " in (
        result.output
    )
    assert "there is no compiler: apt-get install gcc python3-dev" in result.output
    assert "building cluster-fast 1.1 on web1" in result.output
    assert "Traceback" not in result.output
    assert stand.release() == before
    assert stand.ask(first, "cluster_fast.add(2, 3)") == 5
    first.run("mv", f"{compiler}.away", compiler)
    assert_up(stand)
    assert stand.release() != before
    assert stand.builds(stand.all_hosts[1]) == 0
