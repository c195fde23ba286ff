"""What a project's packages are read from."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.packages import is_of_lock, mask_urls, uv_config, write_installation
from cluster.release import ReleaseSpec, check_copied, local_lines, sources, specify
from cluster.requirements import Kind, Requirements, find_reference, local_path, optional_lines, read_requirements
from cluster.source import ReleaseError

if TYPE_CHECKING:
    from pathlib import Path

VALUES: dict[str, Any] = {
    "platform": "local",
    "upstream": {"servers": 1},
    "site": {"server_names": ["localhost"]},
}

PACKAGE = '[project]\nname = "{name}"\nversion = "1"\n[build-system]\nrequires = ["setuptools"]\n'


def project(root: Path, **files: str) -> Path:
    for path, text in {"site/manage.py": "", **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def spec(root: Path, requirements: Any = None) -> ReleaseSpec:
    app = {"project": "./site", "settings": "pkg.settings", "requirements": requirements}
    return specify(parse_config({**VALUES, "app": app}), root, {"secret_key": "k"}, "python")


def read(root: Path, requirements: Any = None) -> Requirements:
    app = {"project": "./site", "settings": "pkg.settings", "requirements": requirements}
    return read_requirements(parse_config({**VALUES, "app": app}).app, root / "site")


@pytest.mark.parametrize(
    ("line", "target", "editable", "extras", "marker"),
    [
        ("-e .", ".", True, "", ""),
        ("--editable=./lib[a,b]", "./lib", True, "[a,b]", ""),
        ("-e lib", "lib", True, "", ""),
        ("./lib", "./lib", False, "", ""),
        ("../.[test] ; python_version > '3'", "../.", False, "[test]", "python_version > '3'"),
        ("lib/core # the core", "lib/core", False, "", ""),
        ("file:///srv/lib", "file:///srv/lib", False, "", ""),
        ("-e file:../lib#egg=lib[x]", "file:../lib", True, "[x]", ""),
        ("lib @ file:///srv/lib", "file:///srv/lib", False, "", ""),
        ("lib[x] @ ../lib", "../lib", False, "[x]", ""),
        ("./wheels/lib-1-py3-none-any.whl --hash=sha256:0", "./wheels/lib-1-py3-none-any.whl", False, "", ""),
        ("lib-1.tar.gz", "lib-1.tar.gz", False, "", ""),
    ],
)
def test_a_line_that_installs_from_a_path(line: str, target: str, editable: bool, extras: str, marker: str) -> None:
    found = find_reference(line)
    assert found is not None
    assert (found.target, found.editable, found.extras, found.marker) == (target, editable, extras, marker)
    assert line[found.start : found.end].startswith(("lib", target, "lib[x]")), line[found.start : found.end]


@pytest.mark.parametrize(
    "line",
    [
        *("django", "django==5.2 ; sys_platform == 'linux'", "-r other.txt", "--index-url https://host/simple", ""),
        *(
            "# -e .",
            "-e git+https://host/lib.git#egg=lib",
            "lib @ https://host/lib.whl",
            "lib @ git+ssh://git@host/lib",
        ),
        *("https://host/lib-1.tar.gz", "--find-links ./wheels", "django[argon2]>=5"),
    ],
)
def test_a_line_that_installs_from_no_path(line: str) -> None:
    assert find_reference(line) is None


def test_a_url_of_a_file_is_a_path() -> None:
    assert local_path("file:///srv/a%20b") == "/srv/a b"
    assert local_path("file:../lib") == "../lib"
    assert local_path("file://localhost/srv/lib") == "/srv/lib"


def test_local_packages_are_found_in_all_files_and_lie_in_the_release(tmp_path: Path) -> None:
    root = project(
        tmp_path,
        **{
            "site/requirements.txt": "-r requirements/base.txt\n-e .\ndjango\n",
            "site/requirements/base.txt": "-c limits.txt\n-e ../lib[x]  # beside\n./built\n",
            "site/requirements/limits.txt": "django<6\n",
            "site/pyproject.toml": PACKAGE.format(name="site"),
            "site/built/setup.py": "",
            "lib/pyproject.toml": PACKAGE.format(name="lib").replace("[build", 'dependencies = ["deep"]\n[build')
            + '[tool.uv.sources]\ndeep = {path = "../deep", editable = true}\n',
            "deep/pyproject.toml": PACKAGE.format(name="deep"),
        },
    )
    found = spec(root)
    assert {str(path) for path in sources(found)} == {"lib", "deep", "site/built"}
    lines = local_lines(found, "/srv/project", "/srv/sources")
    assert set(lines) == {
        *("-e /srv/project", "-e /srv/sources/lib", "-e /srv/sources/deep", "/srv/sources/site/built")
    }
    base = found.requirements.texts[root / "site" / "requirements" / "base.txt"]
    assert base == "-c limits.txt\n-e ../lib[x]  # beside\n./built\n", (
        "uv reads paths from the directory that it runs in"
    )
    assert found.requirements.unclear == (root / "site" / "built",)


def test_a_change_above_the_project_is_another_release_with_a_word_for_it(tmp_path: Path) -> None:
    files = {"site/requirements.txt": "../.[test]\n", "pyproject.toml": PACKAGE.format(name="all"), "lib/x.py": "1"}
    root = project(tmp_path, **files, **{"stacks/Pulumi.local.yaml": "a"})
    first = spec(root)
    (root / "stacks" / "Pulumi.local.yaml").write_text("b")
    assert spec(root).digest == first.digest, "a weight would be another release"
    (root / "lib" / "x.py").write_text("2")
    second = spec(root)
    assert {part for part in second.parts if second.parts[part] != first.parts[part]} == {"packages"}
    assert second.environment_digest == first.environment_digest


@pytest.mark.parametrize("path", ["site/views.py", "lib/x.py"])
@pytest.mark.parametrize("text", ["never released", None])
def test_what_was_changed_since_it_was_looked_at_is_no_release(path: str, text: str | None, tmp_path: Path) -> None:
    packages = {"lib/pyproject.toml": PACKAGE.format(name="lib"), "lib/x.py": "1"}
    root = project(tmp_path, **{"site/requirements.txt": "-e ../lib\n", "site/views.py": "1", **packages})
    first = spec(root)
    check_copied(first)
    if text is None:
        (root / path).unlink()
    else:
        (root / path).write_text(text)
    with pytest.raises(ReleaseError):
        check_copied(first)


def test_a_package_whose_own_code_says_what_it_needs_makes_another_environment(tmp_path: Path) -> None:
    root = project(tmp_path, **{"site/requirements.txt": "-e .\n", "site/setup.py": "1"})
    first = spec(root)
    (root / "site" / "needs.txt").write_text("django")
    assert spec(root).environment_digest != first.environment_digest


def test_nothing_to_install_is_one_line(tmp_path: Path) -> None:
    root = project(tmp_path, **{"site/requirements.txt": "-e ../gone\n"})
    with pytest.raises(
        ReleaseError, match=r"requirements.txt installs \.\./gone, and there is nothing to install at"
    ) as told:
        read(root)
    assert "\n" not in str(told.value)


# --- pyproject.toml and locks

GROUPS = """\
[project]
name = "site"
version = "1"
dependencies = ["django"]
[project.optional-dependencies]
prod = ["gunicorn"]
[dependency-groups]
dev = ["pytest"]
web = ["uvicorn"]
[tool.uv]
dev-dependencies = ["ruff"]
"""


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"extras": ["prd"]}, "app.requirements.extras: pyproject.toml has no extra prd; known: prod"),
        ({"groups": ["wb"]}, "app.requirements.groups: pyproject.toml has no group wb; known: dev, web"),
    ],
)
def test_an_unknown_extra_or_group_is_named_with_the_known_ones(
    chosen: dict[str, Any], words: str, tmp_path: Path
) -> None:
    root = project(tmp_path, **{"site/pyproject.toml": GROUPS})
    with pytest.raises(ReleaseError) as told:
        read(root, {"file": "pyproject.toml", **chosen})
    assert str(told.value) == words


def test_extras_of_a_requirements_file_are_refused(tmp_path: Path) -> None:
    root = project(tmp_path, **{"site/requirements.txt": "django\n"})
    with pytest.raises(
        ReleaseError, match=r"app.requirements.extras: requirements.txt has no extra prod; it has no extras"
    ):
        read(root, {"file": "requirements.txt", "extras": ["prod"]})


@pytest.mark.parametrize("kind", [Kind.UV, Kind.POETRY, Kind.PDM])
def test_a_lock_beside_pyproject_is_read(kind: Kind, tmp_path: Path) -> None:
    root = project(tmp_path, **{"site/pyproject.toml": GROUPS, f"site/{kind.value}": ""})
    assert read(root).kind is kind
    assert read(root, kind.value).kind is kind


@pytest.mark.parametrize(
    ("files", "named", "brings"),
    [
        (
            {
                "pyproject.toml": '[project.optional-dependencies]\nweb = ["b"]\nall = ["x[web]"]\n'
                '[dependency-groups]\ndev = ["d", {include-group = "base"}]\nbase = ["e"]\n'
            },
            "pyproject.toml",
            [
                ("extra", "web", ["b"]),
                ("extra", "all", ["x[web]"]),
                ("group", "dev", ["d", "e"]),
                ("group", "base", ["e"]),
            ],
        ),
        (
            {
                "pyproject.toml": '[tool.poetry.extras]\npg = ["psycopg"]\n'
                '[tool.poetry.group.prod.dependencies]\ngevent = "*"\n',
                "poetry.lock": "",
            },
            "pyproject.toml",
            [("extra", "pg", ["psycopg"]), ("group", "prod", ["gevent"])],
        ),
        (
            {"pyproject.toml": '[tool.pdm.dev-dependencies]\ntest = ["t"]\n', "pdm.lock": ""},
            "pyproject.toml",
            [("group", "test", ["t"])],
        ),
        (
            {"Pipfile.lock": '{"_meta": {}, "default": {}, "develop": {"t": {"version": "==1"}}}'},
            "Pipfile.lock",
            [("group", "develop", ["t"])],
        ),
        # A pyproject.toml that leaves it to setuptools, whose setup.cfg says what there is.
        (
            {
                "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\n',
                "setup.cfg": "[metadata]\nname = shop\n[options.extras_require]\nweb =\n    b\n    c>1\n",
            },
            "pyproject.toml",
            [("extra", "web", ["b", "c>1"])],
        ),
        # Of a requirements file `up` takes no extras, whatever stands beside it.
        (
            {"requirements.txt": "", "pyproject.toml": '[project.optional-dependencies]\nweb = ["b"]\n'},
            "requirements.txt",
            [],
        ),
    ],
)
def test_each_extra_and_group_that_can_be_chosen_is_known_with_what_it_brings(
    files: dict[str, str], named: str, brings: list[Any], tmp_path: Path
) -> None:
    root = project(tmp_path, **{f"site/{name}": text for name, text in files.items()})
    assert list(optional_lines(read(root, named))) == brings


@pytest.mark.parametrize(
    ("beside", "package"),
    [
        ({"setup.cfg": "[metadata]\nname = shop\n"}, True),
        ({"setup.py": "from setuptools import setup\nsetup(name='shop')\n"}, True),
        ({"setup.cfg": "[flake8]\nmax-line-length = 88\n"}, False),
        ({"setup.cfg": "no table\n"}, False),
        ({}, False),
    ],
)
def test_a_package_whose_metadata_is_setuptools_own_is_needed_whole(
    beside: dict[str, str], package: bool, tmp_path: Path
) -> None:
    site = {"pyproject.toml": "[tool.ruff]\n", "shop/__init__.py": "", **beside}
    root = project(tmp_path, **{f"site/{name}": text for name, text in site.items()})
    found = read(root, "pyproject.toml")
    assert found.unclear == ((root / "site",) if package else ())
    assert [local.path for local in found.local] == ([root / "site"] if package else [])


@pytest.mark.parametrize(
    ("words", "of_the_lock"),
    [
        ("Error: Declared README file does not exist: README.md\nWarning: use poetry.lock\n", False),
        ("Error: a\nError: pyproject.toml changed significantly since poetry.lock was last generated.\n", True),
        ("error: Failed to fetch: `https://pypi.org/simple/poetry/`\n", True),
    ],
)
def test_only_what_poetry_says_of_its_lock_makes_it_stale(words: str, of_the_lock: bool) -> None:
    assert is_of_lock(Kind.POETRY, words) is of_the_lock


def test_two_locks_are_refused_until_one_is_named(tmp_path: Path) -> None:
    root = project(tmp_path, **{"site/pyproject.toml": GROUPS, "site/uv.lock": "", "site/poetry.lock": ""})
    with pytest.raises(ReleaseError, match=r"uv.lock and poetry.lock both stand beside .* name the one that counts"):
        read(root)
    assert read(root, "poetry.lock").kind is Kind.POETRY


def test_a_lock_beside_a_requirements_file_is_known(tmp_path: Path) -> None:
    root = project(tmp_path, **{"site/requirements.txt": "django\n", "site/poetry.lock": ""})
    assert read(root).beside == root / "site" / "poetry.lock"


def test_poetry_without_a_lock_and_without_a_package_is_one_line(tmp_path: Path) -> None:
    root = project(tmp_path, **{"site/pyproject.toml": "[tool.poetry]\npackage-mode = false\n"})
    with pytest.raises(ReleaseError, match=r"there is no poetry.lock beside it: run `poetry lock`"):
        read(root)


UV_LOCK = """\
version = 1
requires-python = ">=3.11"
[[package]]
name = "site"
source = { editable = "site" }
dependencies = [{ name = "core", extra = ["fast"] }, { name = "django" }]
[package.dev-dependencies]
dev = [{ name = "tools" }]
[[package]]
name = "core"
source = { editable = "core" }
[package.optional-dependencies]
fast = [{ name = "deep" }]
[[package]]
name = "deep"
source = { directory = "deep" }
[[package]]
name = "tools"
source = { editable = "tools" }
[[package]]
name = "other"
source = { editable = "other" }
[[package]]
name = "django"
source = { registry = "https://host/simple" }
"""


def test_of_a_workspace_only_the_members_that_the_project_needs_are_part_of_it(tmp_path: Path) -> None:
    members = {
        f"{name}/pyproject.toml": PACKAGE.format(name=name) for name in ("site", "core", "deep", "tools", "other")
    }
    workspace = {"pyproject.toml": '[tool.uv.workspace]\nmembers = ["*"]\n', "uv.lock": UV_LOCK}
    root = project(tmp_path, **members, **workspace)
    found = read(root)
    assert found.kind is Kind.UV
    assert {(package.path.name, package.editable, package.itself) for package in found.local} == {
        *(("site", True, True), ("core", True, False), ("deep", False, False))
    }
    assert {path.parent.name for path in found.files if path.name == "pyproject.toml"} >= {"other", "tools"}, (
        "uv wants to see all members"
    )
    app = {"project": "./site", "settings": "s", "requirements": {"groups": ["dev"]}}
    with pytest.raises(ReleaseError, match="no group dev"):
        read_requirements(parse_config({**VALUES, "app": app}).app, root / "site")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            Kind.POETRY,
            '[[package]]\nname = "lib"\ndevelop = true\n[package.source]\ntype = "directory"\nurl = "../lib"\n',
        ),
        (Kind.PDM, '[[package]]\nname = "lib"\neditable = true\npath = "../lib"\n'),
        (Kind.PYLOCK, '[[packages]]\nname = "lib"\ndirectory = {path = "../lib", editable = true}\n'),
        (Kind.PIPENV, json.dumps({"default": {"lib": {"editable": True, "path": "../lib"}}})),
    ],
)
def test_a_path_in_a_lock_is_a_local_package(kind: Kind, text: str, tmp_path: Path) -> None:
    files = {f"site/{kind.value}": text, "lib/pyproject.toml": PACKAGE.format(name="lib")}
    if kind is not Kind.PIPENV:
        files["site/pyproject.toml"] = '[project]\nname = "site"\nversion = "1"\n'
    found = spec(project(tmp_path, **files), kind.value)
    assert local_lines(found, "/project", "/sources") == ["-e /sources/lib"]


# --- indexes


def test_indexes_of_pyproject_and_of_requirements_files_are_uv_s(tmp_path: Path) -> None:
    poetry = '[tool.poetry]\nname = "x"\n[[tool.poetry.source]]\nname = "own"\nurl = "https://own/simple"\n'
    for text, name, expected in (
        (
            '[[tool.uv.index]]\nname = "own"\nurl = "https://own/simple"\nexplicit = true\n',
            "pyproject.toml",
            "explicit = true",
        ),
        (poetry + 'priority = "supplemental"\n', "pyproject.toml", 'url = "https://own/simple"'),
        (poetry, "pyproject.toml", "default = true"),
        ('[[tool.pdm.source]]\nname = "pypi"\nurl = "https://own/simple"\n', "pyproject.toml", "default = true"),
        ("--extra-index-url https://own/simple\ndjango\n", "requirements.txt", 'url = "https://own/simple"'),
        ("-i https://own/simple\ndjango\n", "requirements.txt", "default = true"),
        ("--find-links ./wheels\ndjango\n", "requirements.txt", 'find-links = ["wheels"]'),
    ):
        root = project(tmp_path, **{f"site/{name}": text})
        written = uv_config(read(root, name))
        assert expected in written, (text, written)


@pytest.mark.parametrize(
    ("line", "wheels"),
    [
        ("--find-links wheels", "site/wheels"),
        ("--no-index --find-links=../wheels", "wheels"),
        ("-f {root}/wheels", "wheels"),
        ("--find-links file://{root}/wheels", "wheels"),
        ("-r requirements/base.txt", "site/wheels"),
    ],
)
def test_packages_files_in_a_directory_are_part_of_what_is_installed(line: str, wheels: str, tmp_path: Path) -> None:
    base = "--find-links ../wheels\nlib\n"
    text = f"{line.format(root=tmp_path)}\nlib\n"
    files = {"site/requirements.txt": text, "site/requirements/base.txt": base, f"{wheels}/lib-1-py3-none-any.whl": "1"}
    root = project(tmp_path, **{**files, f"{wheels}/notes.txt": "1"})
    first = spec(root)
    assert first.requirements.links == (root / wheels,)
    assert "find-links" not in str(first.requirements.texts), "uv takes a relative one from elsewhere than pip"
    (root / wheels / "lib-1-py3-none-any.whl").write_text("2")
    second = spec(root)
    assert second.environment_digest != first.environment_digest, "the package is another one"
    assert second.parts["requirements"] != first.parts["requirements"]
    (root / wheels / "notes.txt").write_text("2")
    assert spec(root).environment_digest == second.environment_digest
    place = os.path.relpath(root / wheels, root / "site")
    assert f'find-links = ["{place}"]' in uv_config(second.requirements)
    write_installation(
        *(tmp_path / "from", second.requirements), runtime=(), python=">=3.11", place=str(tmp_path / "from")
    )
    tree = tmp_path / "from" / "tree" / (root / "site").relative_to(second.requirements.top)
    assert (tree / place / "lib-1-py3-none-any.whl").read_text() == "2"


def test_a_variable_in_an_index_s_address_is_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "canary")
    root = project(tmp_path, **{"site/requirements.txt": "-i https://user:${TOKEN}@own/simple\n"})
    assert "https://user:canary@own/simple" in uv_config(read(root))


def test_no_password_of_an_index_is_told() -> None:
    told = mask_urls("error: https://user:canary@own/simple and https://canary@own/x: 404 (file:///a/b@c)")
    assert "canary" not in told
    assert "own/simple" in told
