"""What the product imports is in its own lock: a package of the tests that brings it too hides that it is missing."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Packages that are installed in no checkout of ours: of the release's own environment, or of this repository.
ELSEWHERE = {"django", "gunicorn", "pymemcache", "uvicorn", "uvicorn_worker"}

ROOMS = ("cli", "cluster", "platforms", "components")


def locked(name: str) -> set[str]:
    return {
        one.lower().replace("_", "-") for one in re.findall(r"^([\w.-]+)==", (ROOT / name).read_text(), re.MULTILINE)
    }


def imported() -> set[str]:
    """Return the modules of other projects that the product names in an import, by their first word."""
    found = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {one.name.partition(".")[0] for one in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {*ROOMS, "cluster_runtime", *ELSEWHERE}


def of_the_tests_alone(module: str) -> set[str]:
    """Return who brings a module here that is in the lock of the tests and not in the product's."""
    who = {name.lower().replace("_", "-") for name in packages_distributions().get(module, [])}
    return who & (locked("requirements-dev.lock") - locked("requirements.lock"))


def test_no_module_of_the_product_s_is_brought_by_a_package_of_the_tests() -> None:
    modules = imported()
    assert {"crossplane", "httpx", "pulumi", "pydantic"} <= modules
    assert {module: who for module in modules if (who := of_the_tests_alone(module))} == {}


def test_a_module_of_the_tests_is_found() -> None:
    """The saboteur of the test before."""
    assert of_the_tests_alone("hypothesis") == {"hypothesis"}
