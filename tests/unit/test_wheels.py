"""Packages that have no wheel for a host: what is asked of the first host of a kind, and what is believed of it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import tracemalloc
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.release import ReleaseError, specify
from cluster.requirements import Kind, Requirements, read_toml
from cluster.sdists import Sdist, Unbuilt
from cluster.topology import build_topology
from platforms.remote import environments, wheels
from platforms.remote.archives import make_release
from platforms.remote.host.paths import HostPaths
from platforms.remote.looked import Looked, Seen
from platforms.remote.wheels import PROPERTIES, UNVERSIONED, Wheels, said_of_building, wheels_for
from tests.unit.test_remote import MACHINE, VALUES

if TYPE_CHECKING:
    from collections.abc import Callable

KIND = {"python": "3.13", "platform": "x86_64-manylinux_2_40", "codename": "trixie"}

WHEEL = "fast_add-1.2-cp313-cp313-linux_x86_64.whl"

PACKAGE = Unbuilt(name="fast-add", version="1.2")

#: What each compiler, and whoever looks for one, says.
WITHOUT_COMPILER = (
    "error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory",
    "unable to execute 'gcc': No such file\nerror: command '/usr/bin/gcc' failed: No such file or directory",
    "/bin/sh: 1: cc: not found",
    "make: gcc: command not found",
    "../meson.build:1:0: ERROR: Unknown compiler(s): [['cc'], ['gcc']]",
    "configure: error: no acceptable C compiler found in $PATH",
    "FileNotFoundError: [Errno 2] No such file or directory: 'gcc'",
)


def built(name: str = WHEEL) -> dict[str, str]:
    return {"wheel": name, "content": base64.b64encode(b"a wheel").decode()}


@dataclass
class There:
    """The first host of a kind, which answers one after another."""

    answers: list[dict[str, Any]]
    told: list[dict[str, Any]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def send(self, host: str, what: str, *, sent: Path) -> str:
        assert (host, what) == ("web1", "build")
        self.sizes.append(sent.stat().st_size)
        with tarfile.open(sent) as archive:
            content = archive.extractfile("./how.json")
            assert content is not None
            self.told.append({**json.load(content), "names": archive.getnames()})
        return json.dumps(self.answers.pop(0))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What packages were to be built with: no index is asked."""
    found: list[list[str]] = []

    def make(_self: Wheels, made: Path, _found: Any, _package: Any, requires: list[str], _constraints: Any) -> None:
        (made / "environment").mkdir()
        found.append([*requires])

    monkeypatch.setattr(Wheels, "_make_environment", make)
    return found


@pytest.fixture
def sdist(tmp_path: Path) -> Sdist:
    path = tmp_path / "fast_add-1.2.tar.gz"
    path.write_bytes(b"source")
    return Sdist(path=path, digest="5" * 64, requires=["setuptools"])


def requirements(directory: Path) -> Requirements:
    return Requirements(kind=Kind.REQUIREMENTS, main=directory / "requirements.txt", directory=directory)


def on(there: There, kept: Path, **changes: Any) -> Wheels:
    said: Any = changes.pop("say", lambda _line: None)
    ssh: Any = there
    return Wheels(ssh=ssh, host="web1", kept=kept, say=said, **{**KIND, **changes})


def test_a_wheel_is_built_once_for_a_kind_of_host_and_kept(tmp_path: Path, sdist: Sdist, sent: list[list[str]]) -> None:
    there, said = There([built()]), list[str]()
    for _time in range(2):
        path = on(there, tmp_path / "kept", say=said.append).wheel(requirements(tmp_path), PACKAGE, sdist)
        assert (path.name, path.read_bytes()) == (WHEEL, b"a wheel")
    assert said == ["building fast-add 1.2 on web1: it has no wheel for Python 3.13 on x86_64-manylinux_2_40"]
    assert sent == [["setuptools"]]
    (told,) = there.told
    assert "./source/fast_add-1.2.tar.gz" in told["names"]
    assert told["backend"] == "setuptools.build_meta:__legacy__"


def test_a_large_source_is_never_held_as_a_whole(tmp_path: Path, sdist: Sdist, sent: list[list[str]]) -> None:
    large, most_held = 32 * 1024**2, 4 * 1024**2  # bytes
    sdist.path.write_bytes(os.urandom(large))
    there = There([built()])
    tracemalloc.start()
    try:
        on(there, tmp_path / "kept").wheel(requirements(tmp_path), PACKAGE, sdist)
        _now, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(sent), there.sizes[0] > large) == (1, True)
    assert most < most_held


@pytest.mark.parametrize("change", [{"python": "3.11"}, {"platform": "aarch64-manylinux_2_40"}, {"codename": "forky"}])
def test_another_kind_of_host_or_another_source_gets_a_wheel_of_its_own(
    change: dict[str, str], tmp_path: Path, sdist: Sdist, sent: list[list[str]]
) -> None:
    there = There([built() for _number in range(3)])
    on(there, tmp_path / "kept").wheel(requirements(tmp_path), PACKAGE, sdist)
    on(there, tmp_path / "kept", **change).wheel(requirements(tmp_path), PACKAGE, sdist)
    on(there, tmp_path / "kept").wheel(requirements(tmp_path), PACKAGE, replace(sdist, digest="6" * 64))
    assert (len(sent), there.answers) == (3, [])


@pytest.mark.parametrize(
    "table",
    [
        '[tool.uv.config-settings]\nfast = "yes"\n',
        '[tool.uv.extra-build-dependencies]\nfast-add = ["cython"]\n',
        '[tool.uv]\nbuild-constraint-dependencies = ["setuptools<80"]\n',
    ],
)
def test_a_wheel_that_was_built_otherwise_is_another_one(
    tmp_path: Path, sdist: Sdist, sent: list[list[str]], table: str
) -> None:
    there = There([built(), built()])
    for text in ("", table, table, ""):
        (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "a"\nversion = "1"\n{text}')
        on(there, tmp_path / "kept").wheel(requirements(tmp_path), PACKAGE, sdist)
    assert len(sent) == len(there.told) == 2
    assert there.answers == []


def test_what_a_backend_asks_for_beside_is_sent_too(tmp_path: Path, sdist: Sdist, sent: list[list[str]]) -> None:
    there = There([{"requires": ["wheel", "setuptools"]}, built()])
    on(there, tmp_path / "kept").wheel(requirements(tmp_path), PACKAGE, sdist)
    assert sent == [["setuptools"], ["setuptools", "wheel"]]


def test_a_backend_that_asks_for_more_each_time_is_given_up(
    tmp_path: Path, sdist: Sdist, sent: list[list[str]]
) -> None:
    there = There([{"requires": [f"more{number}"]} for number in range(9)])
    with pytest.raises(ReleaseError, match="it asks for more and more to be built with: setuptools, more0"):
        on(there, tmp_path / "kept").wheel(requirements(tmp_path), PACKAGE, sdist)
    assert len(sent) == wheels.MOST_ASKED


@pytest.mark.parametrize("line", ["--index-url https://evil/simple", "-r /etc/passwd", "six\n--index-url x"])
def test_foreign_code_can_tell_uv_no_option(line: str, tmp_path: Path, sdist: Sdist, sent: list[list[str]]) -> None:
    there = There([{"requires": [line]}, built()])
    with pytest.raises(ReleaseError, match=r"fast-add 1\.2 is built with "):
        on(there, tmp_path / "kept").wheel(requirements(tmp_path), PACKAGE, sdist)
    assert len(sent) == 1


@pytest.mark.parametrize(
    "said",
    [
        built("../../../etc/x-1-py3-none-any.whl"),
        built("fast_add-1.2-cp313-cp313-linux/../../../x.whl"),
        built("other-1.2-cp313-cp313-linux_x86_64.whl"),
        built("fast_add.tar.gz"),
        {"wheel": WHEEL, "content": "no base64"},
    ],
)
def test_a_wheel_that_is_another_one_than_was_asked_for_is_not_kept(
    said: dict[str, str], tmp_path: Path, sdist: Sdist, sent: list[list[str]]
) -> None:
    with pytest.raises(ReleaseError, match=r"fast-add 1\.2"):
        on(There([said]), tmp_path / "kept").wheel(requirements(tmp_path), PACKAGE, sdist)
    assert sent
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".whl"]


@pytest.mark.parametrize("words", WITHOUT_COMPILER)
def test_a_compiler_that_is_missing_is_said_with_the_host_and_the_package(
    words: str, tmp_path: Path, sdist: Sdist, sent: list[list[str]]
) -> None:
    with pytest.raises(ReleaseError) as refused:
        on(There([{"failed": f"running build_ext\n{words}"}]), tmp_path / "kept").wheel(
            requirements(tmp_path), PACKAGE, sdist
        )
    first, *rest = str(refused.value).splitlines()
    assert first == (
        "app.requirements: fast-add 1.2 has no wheel for Python 3.13 on x86_64-manylinux_2_40, and can't be built on "
        "web1: there is no compiler: apt-get install gcc python3-dev"
    )
    assert rest[-1].strip() == words.splitlines()[-1]
    assert sent


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("c.c:1:10: fatal error: Python.h: No such file or directory", "apt-get install python3-dev"),
        ("error: command 'g++' failed: No such file or directory", "apt-get install g++ python3-dev"),
        ("Error: pg_config executable not found.", "apt-get install libpq-dev"),
        ("/bin/sh: 1: pkg-config: not found", "apt-get install pkg-config"),
        (
            "warning: x\nc.c:3:1: error: implicit declaration of function\nerror: command 'gcc'",
            "c.c:3:1: error: implicit",
        ),
        ("it fell down", "its build fails there\n    it fell down"),
    ],
)
def test_what_else_a_build_may_miss_is_said(
    words: str, told: str, tmp_path: Path, sdist: Sdist, sent: list[list[str]]
) -> None:
    with pytest.raises(ReleaseError, match=re.escape(told)):
        on(There([{"failed": words}]), tmp_path / "kept").wheel(requirements(tmp_path), PACKAGE, sdist)
    assert sent


@pytest.mark.parametrize(("versioned", "tries"), [(True, 1), (False, 2)])
def test_only_a_copy_of_a_directory_is_given_a_version(
    versioned: bool, tries: int, tmp_path: Path, sdist: Sdist, sent: list[list[str]]
) -> None:
    there = There([{"failed": "setuptools-scm was unable to detect version"}, {"failed": "nor now"}])
    with pytest.raises(ReleaseError, match="unable to detect version"):
        on(there, tmp_path / "kept").wheel(requirements(tmp_path), PACKAGE, sdist, versioned=versioned)
    assert [told["variables"] for told in there.told] == [{}, dict(UNVERSIONED)][:tries]
    assert len(sent) == tries


def test_the_user_of_a_build_is_never_the_user_of_another_stack_s_instances() -> None:
    """systemd calls a dynamic user after its unit, and takes one that is there already where it is called so."""
    built, instances = HostPaths("shop").build_unit.removesuffix(".service"), HostPaths("shop-build").name
    assert built != instances
    assert "." in built, "a name of a user has none, and systemd makes one of the unit's hash"


def test_a_build_has_no_network_no_rights_and_less_of_the_processor_than_the_site() -> None:
    assert {"DynamicUser=yes", "PrivateNetwork=yes", "ProtectSystem=strict", "NoNewPrivileges=yes"} < {*PROPERTIES}
    assert {"CPUWeight=10", "OOMScoreAdjust=1000", "CapabilityBoundingSet=", "ProtectHome=yes"} < {*PROPERTIES}
    assert not [one for one in PROPERTIES if "AF_INET" in one or one.startswith(("User=", "LoadCredential", "Read"))]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            {"severity": "info", "message": "<{%reset%}>building six 1 on web1: why<{%reset%}>\n"},
            "building six 1 on web1: why",
        ),
        ({"severity": "info", "message": "setting up\n"}, ""),
        ({"severity": "error", "message": "building six failed\n"}, ""),
    ],
)
def test_a_build_is_said_while_it_lasts(event: dict[str, str], said: str) -> None:
    assert said_of_building({"diagnosticEvent": event}) == said
    assert said_of_building({"resourcePreEvent": {}}) == ""


def seen(**codenames: str) -> Seen:
    address = {"user": "root", "host_key": "ssh-ed25519 AAAA"}
    hosts = [
        {**address, "name": name, "address": f"192.0.2.{number}", "roles": ["app", "nginx"]}
        for number, name in enumerate(codenames, start=1)
    ]
    told = {**VALUES, "hosts": hosts, "database": {"engine": "external"}, "sessions": {"engine": "db"}}
    each = {
        name: Looked(host=name, places=HostPaths("shop"), machine={**MACHINE, "codename": codename}, stack=None)
        for name, codename in codenames.items()
    }
    return Seen(each=each, topology=build_topology(parse_config(told)))


def test_a_wheel_is_built_on_the_first_host_of_its_kind(tmp_path: Path) -> None:
    found, ssh = seen(web1="bookworm", web2="trixie", web3="trixie", web4="bookworm"), Any
    chosen = {name: wheels_for(name, ssh, found, tmp_path, print) for name in found.each}  # type: ignore[arg-type]
    assert {name: one.host for name, one in chosen.items()} == {
        "web1": "web1",
        "web2": "web2",
        "web3": "web2",
        "web4": "web1",
    }
    assert (chosen["web1"].platform, chosen["web3"].codename) == ("x86_64-manylinux_2_36", "trixie")


# --- what is installed instead


def test_a_pylock_names_the_wheel_that_was_built_and_nothing_else_of_it_changes(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "main").write_text("pylock.toml\n")
    wheel = tmp_path / WHEEL
    wheel.write_bytes(b"a wheel")
    other = (
        '[[packages]]\nname = "six"\nversion = "1"\nsdist = {url = "https://h/six.tar.gz", hashes = {sha256 = "0"}}\n'
    )
    lock = (
        'lock-version = "1.0"\n[[packages]]\nname = "fast-add"\nversion = "1.2"\nmarker = "os_name == \'posix\'"\n'
        f'sdist = {{url = "https://h/f.tar.gz", hashes = {{sha256 = "0"}}}}\n{other}'
    )
    (tmp_path / "tree" / "pylock.toml").write_text(lock)
    environments.put_in_lock(tmp_path, "fast-add", wheel)
    first, second = read_toml(tmp_path / "tree" / "pylock.toml")["packages"]
    assert (first["name"], first["marker"], "sdist" in first) == ("fast-add", "os_name == 'posix'", False)
    assert first["wheels"][0]["path"] == str(wheel)
    assert other in (tmp_path / "tree" / "pylock.toml").read_text()
    assert second["name"] == "six"


@dataclass
class Installing:
    """What installs an environment: it lacks a package's wheel until there is one, in its index or as an override."""

    wheel: str = WHEEL
    said: str = "Failed to build `fast-add==1.2`"
    tries: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, command: list[str], *, environment: dict[str, str], **_options: Any) -> Any:
        made_from, packages = Path(command[1]), Path(command[2])
        assert list(packages.iterdir()) == [], "what a try has left would be another environment's"
        config = (made_from / "tree" / "cluster-uv.toml").read_text()
        (links,) = re.findall(r'find-links = \["(.*)"\]', config)
        override = environment.get("UV_OVERRIDE")
        found = {
            "overrides": Path(override).read_text() if override else "",
            "links": " ".join(path.name for path in Path(links).iterdir()),
        }
        self.tries.append(found)
        (packages / "half").touch()
        has_it = self.wheel in found["overrides"] + found["links"]
        said = "" if has_it else self.said
        return subprocess.CompletedProcess(command, 0 if has_it else 1, "", said)


def make_environment(root: Path, text: str, installing: Installing, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, held in {"site/manage.py": "", "site/requirements.txt": text}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(held)
    (root / "fast_add-1.2.tar.gz").write_bytes(b"source")
    config = parse_config({**VALUES, "app": {"project": "./site", "settings": "shop.settings"}})
    spec = specify(config, root, {"secret_key": "x"}, "python")
    monkeypatch.setattr(environments, "run_program", installing)
    found = Sdist(path=root / "fast_add-1.2.tar.gz", digest="5" * 64)
    monkeypatch.setattr(environments, "fetch", lambda *_arguments: found)
    there = on(There([built()]), root / "kept")
    environments.make_environment(root / "e.tar.gz", build_topology(config), spec, there)


def test_a_wheel_that_was_built_is_found_as_in_an_index_where_versions_are_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list[list[str]]
) -> None:
    installing = Installing()
    make_environment(tmp_path, "fast-add>=1\n", installing, monkeypatch)
    assert installing.tries == [{"overrides": "", "links": ""}, {"overrides": "", "links": WHEEL}]
    assert (tmp_path / "e.tar.gz").is_file()
    assert len(sent) == 1


def test_a_wheel_that_was_built_stands_in_the_place_of_what_has_pinned_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list[list[str]]
) -> None:
    """Its own hash is none of these."""
    installing = Installing()
    make_environment(tmp_path, "fast-add==1.2 --hash=sha256:aa\n", installing, monkeypatch)
    first, second = installing.tries
    assert first == {"overrides": "", "links": ""}
    digest = hashlib.sha256(b"a wheel").hexdigest()
    assert re.fullmatch(rf"fast-add @ file:///\S+/{WHEEL} --hash=sha256:{digest}\n", second["overrides"])
    assert len(sent) == 1


def test_a_wheel_that_does_not_fit_where_it_was_built_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list[list[str]]
) -> None:
    installing = Installing("another.whl")
    with pytest.raises(ReleaseError, match=rf"{WHEEL} was built on web1, and is not for Python 3\.13 on x86_64"):
        make_environment(tmp_path, "fast-add>=1\n", installing, monkeypatch)
    assert (len(installing.tries), len(sent)) == (2, 1)
    assert not (tmp_path / "e.tar.gz").exists()


def test_a_file_whose_package_has_no_name_before_it_is_run_is_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list[list[str]]
) -> None:
    file = tmp_path / "odd-1.tar.gz"
    file.touch()
    with pytest.raises(ReleaseError, match=r"odd-1\.tar\.gz has to be run to say .*: let `--find-links` name"):
        make_environment(tmp_path, "six\n", Installing("no", f"Failed to build `{file.as_uri()}`"), monkeypatch)
    assert len(sent) == 1


@dataclass
class Local:
    """A release of a project with local packages; `install` stands for install-local."""

    root: Path
    written: int = 0

    def install(self, script: Callable[[Path, Path, list[str]], tuple[int, str, str]], wheels_: Any) -> dict[str, str]:
        for path, text in {
            "site/manage.py": "",
            "site/requirements.txt": "../libs/fast\n-e ../libs/edit\n",
            "libs/fast/setup.py": "1",
            "libs/edit/setup.py": "2",
        }.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text)
        config = parse_config({**VALUES, "app": {"project": "./site", "settings": "shop.settings"}})
        spec = specify(config, self.root, {"secret_key": "x"}, "python")

        def run(command: list[str], **_options: Any) -> Any:
            lines = Path(command[1]).read_text().splitlines()
            status, said, failed = script(Path(command[2]), Path(command[5]), lines)
            return subprocess.CompletedProcess(command, status, said, failed)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(environments, "run_program", run)
            make_release(self.root / "r.tar.gz", build_topology(config), spec, HostPaths("shop"), "e1", wheels=wheels_)
        self.there = f"/srv/cluster/shop/releases/{spec.digest}"
        with tarfile.open(self.root / "r.tar.gz") as archive:
            files = [member for member in archive if member.isfile()]
            return {one.name: (archive.extractfile(one) or io.BytesIO()).read().decode() for one in files}


def test_an_editable_package_leads_to_where_the_release_will_be(tmp_path: Path) -> None:
    local = Local(tmp_path)

    def script(packages: Path, sources: Path, lines: list[str]) -> tuple[int, str, str]:
        assert lines == [f"{sources}/libs/fast", f"-e {sources}/libs/edit"]
        (packages / "bin").mkdir(parents=True)
        (packages / "edit.pth").write_text(f"{sources}/libs/edit\n")
        (packages / "bin" / "shop").write_text("#!/home/me/.venv/bin/python\nimport shop\n")
        return 0, "", ""

    files = local.install(script, on(There([]), tmp_path / "kept"))
    assert files["./packages/edit.pth"] == f"{local.there}/sources/libs/edit\n"
    assert files["./packages/bin/shop"] == f"#!{local.there}/environment/bin/python\nimport shop\n"
    assert files["./sources/libs/fast/setup.py"] == "1"
    assert files["./above"]


def test_a_local_package_that_is_more_than_python_is_built_on_the_host_of_what_was_never_built(
    tmp_path: Path, sent: list[list[str]]
) -> None:
    """What a try leaves beside the source would be another package's, and for this machine."""
    local, there = Local(tmp_path), There([built()])

    def script(packages: Path, sources: Path, lines: list[str]) -> tuple[int, str, str]:
        packages.mkdir()
        if lines[0] == f"{sources}/libs/fast":
            (sources / "libs" / "fast" / "fast.so").write_text("for this machine")
            (packages / ".requirement").write_text(f"{lines[0]}\n")
            return 1, "", f"Failed to build `fast-add @ file://{sources}/libs/fast`\n cause: no"
        assert Path(lines[0]).name == WHEEL
        made = packages / "fast_add-1.2.dist-info"
        made.mkdir()
        (made / "WHEEL").write_text("Tag: cp313-cp313-linux_x86_64\n")
        (made / "RECORD").write_text("fast.py,,\nfast_add-1.2.dist-info/direct_url.json,,\n")
        (made / "direct_url.json").write_text(json.dumps({"url": Path(lines[0]).as_uri()}))
        return 0, "", ""

    files = local.install(script, on(there, tmp_path / "kept"))
    (told,) = there.told
    assert "./source/source0.tar" in told["names"]
    assert "./sources/libs/fast/fast.so" not in files
    assert "./packages/fast_add-1.2.dist-info/direct_url.json" not in files
    assert files["./packages/fast_add-1.2.dist-info/RECORD"] == "fast.py,,\n"
    assert sent


def test_a_local_package_whose_wheel_does_not_fit_either_ends_in_a_line(tmp_path: Path, sent: list[list[str]]) -> None:
    """A package whose code has not said its name is called after its directory."""

    def script(packages: Path, _sources: Path, lines: list[str]) -> tuple[int, str, str]:
        packages.mkdir()
        (packages / ".requirement").write_text(f"{lines[0]}\n")
        return 1, "", f"Failed to build `file://{lines[0]}`"

    with pytest.raises(ReleaseError, match=rf"{WHEEL} was built on web1, and is not for Python 3\.13"):
        Local(tmp_path).install(script, on(There([built()]), tmp_path / "kept"))
    assert len(sent) == 1


def test_a_project_that_is_itself_more_than_python_is_refused(tmp_path: Path) -> None:
    def script(packages: Path, _sources: Path, _lines: list[str]) -> tuple[int, str, str]:
        packages.mkdir()
        return 0, "it runs from its directory alone: the wheel is not compatible with the target Python 3.13", ""

    with pytest.raises(ReleaseError, match="the project itself is more than Python"):
        Local(tmp_path).install(script, on(There([]), tmp_path / "kept"))
