"""Changes of a stack, and what `cluster plan` says of each: kept in tests/plans, shown in docs/plan.md.

What is another on each machine and in each run is written the same: digests of releases and certificates, ports, names
of stacks. `--renew-plans` writes what is said now, and docs/plan.md anew; nothing else does.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.conformance import MIGRATION, servers
from tests.local.stand import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.local.stand import Stand

ROOT = Path(__file__).resolve().parents[1]
PLANS, DOCUMENT = ROOT / "tests" / "plans", ROOT / "docs" / "plan.md"

#: How each form of a plan is asked for, by how its record ends.
FORMS = {"txt": "--text", "md": "--markdown"}

#: Between these two lines the document is written by what is recorded.
BEGIN, END = "<!-- written by pytest --renew-plans -->", "<!-- as far as here -->"

#: What a record has in place of the release that serves, and of the one that `up` would make.
FORMER, WANTED = "643c25958deb", "0a0290cff0a3"

#: And of the ports of the site, and the digest of a certificate.
PORT, SECURE_PORT, CERTIFICATE = "8080", "8443", "759a4acd640a793e"

DIGEST = re.compile(r"\b[0-9a-f]{12}\b")
LABEL = re.compile(r"self-signed from \d{4}-\d\d for (\d+) names, [0-9a-f]{16}")

#: The lines of nginx in both forms.
OF_NGINX = re.compile(r"(?<=  nginx's lines:\n)(?:      .*\n)+|(?<=```diff\n)(?:.*\n)+?(?=```)")

CONFORMANCE = "tests/conformance.py::Changes::test_no_change_loses_a_request_or_a_session"
LOCAL, DOCKER = "tests/local/test_recorded_plans.py", "tests/e2e/test_recorded_plans.py"
REDIRECTED = (
    "tests/local/test_plan_addresses.py::test_an_address_that_redirects_refuses_open_forms_and_one_that_is_left_fails"
)
ANOTHER_NGINX = (
    "tests/e2e/test_creation.py::"
    "test_another_nginx_is_named_by_preview_and_refuses_connections_for_seconds_and_loses_no_session"
)
COUNTED = "test_what_a_plan_says_of_the_cost_is_what_up_costs"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change. make: does it, by the platform; a platform that is not there can't have it.

    counted: the tests in which `up` does the same under load, and requests and sessions are counted; by the platform.
    version: the nginx whose lines are recorded on this machine, where those of another differ.
    """

    title: str
    make: Mapping[str, Callable[[Stand], object]]
    counted: Mapping[str, tuple[str, ...]]
    version: str = ""


def everywhere(make: Callable[[Stand], object]) -> dict[str, Callable[[Stand], object]]:
    return {"local": make, "docker": make}


def of_stack(change: Callable[[dict[str, Any]], object]) -> dict[str, Callable[[Stand], object]]:
    return everywhere(lambda stand: stand.edit_stack(change))


def counted_by(local: str = f"{LOCAL}::{COUNTED}", docker: str = f"{DOCKER}::{COUNTED}") -> dict[str, tuple[str, ...]]:
    return {"local": (local,), "docker": (docker,)}


def _require(stand: Stand) -> None:
    requirements = stand.project / "requirements.txt"
    requirements.write_text(f"{requirements.read_text()}sqlparse>=0.5\n")


def _migrate(stand: Stand, column: str) -> None:
    """Add a column; column: how the field says its default."""
    model = (stand.source / "visits" / "models.py").read_text()
    field_ = f'mood = models.CharField(max_length=20, default=""{column})\n'
    (stand.project / "visits" / "models.py").write_text(f"{model.rstrip()}\n    {field_}")
    stand.edit_code("visits/migrations/0002_mood.py", MIGRATION.replace(', db_default=""', column))


def _refuse(stack: dict[str, Any]) -> None:
    stack["site"]["snippets"] = {"server": "add_haeder X-A b;\n"}


def _accept_another_key(stand: Stand) -> None:
    """Do what the first step of `cluster rotate-key` does."""
    stand.keep_secret("secret_key_fallbacks", json.dumps(["x" * 50]))


def _leave_database(stack: dict[str, Any]) -> None:
    del stack["database"]
    stack["sessions"]["discard"] = True


def _tls(stand: Stand) -> None:
    stand.edit_stack(
        lambda stack: stack["site"].update(tls={"listen": free_port(consecutive=3) + 2, "self_signed": True})
    )


CHANGES: dict[str, Change] = {
    "weight": Change(
        title="The weight of an instance",
        make=of_stack(lambda stack: servers(stack)["app1"].update(weight=5)),
        counted=counted_by(CONFORMANCE, CONFORMANCE),
    ),
    "backup": Change(
        title="An instance becomes a backup",
        make=of_stack(lambda stack: servers(stack)["app3"].update(backup=True)),
        counted=counted_by(CONFORMANCE, CONFORMANCE),
    ),
    "drain": Change(
        title="An instance drains",
        make=of_stack(lambda stack: servers(stack)["app2"].update(down=True)),
        counted=counted_by(CONFORMANCE, CONFORMANCE),
    ),
    "instance-added": Change(
        title="An instance more",
        make=of_stack(lambda stack: stack["upstream"]["servers"].append({"name": "app4"})),
        counted=counted_by(CONFORMANCE, CONFORMANCE),
    ),
    "instance-removed": Change(
        title="An instance less",
        make=of_stack(lambda stack: stack["upstream"]["servers"].pop()),
        counted=counted_by(CONFORMANCE, CONFORMANCE),
    ),
    "release": Change(
        title="A release",
        make=everywhere(lambda stand: stand.edit_code("visits/views.py", "\n# one line more\n")),
        counted=counted_by(CONFORMANCE, CONFORMANCE),
    ),
    "requirement": Change(
        title="A requirement",
        make=everywhere(_require),
        counted=counted_by(
            docker="tests/e2e/test_plan.py::test_a_release_is_told_by_what_changes_and_is_the_one_that_up_makes"
        ),
    ),
    "migration": Change(
        title="A migration that the former release can live beside",
        make=everywhere(lambda stand: _migrate(stand, ', db_default=""')),
        counted=counted_by(CONFORMANCE, CONFORMANCE),
    ),
    "migration-unsafe": Change(
        title="A migration that it can't live beside",
        make=everywhere(lambda stand: _migrate(stand, "")),
        counted=counted_by(
            "tests/local/test_plan.py::test_a_migration_that_the_former_release_cannot_live_beside_costs_requests"
        ),
    ),
    "engine": Change(
        title="Another session engine",
        make=of_stack(lambda stack: stack["sessions"].update(engine="db", previous="cached_db")),
        counted=counted_by(
            "tests/local/test_sessions.py::"
            "test_no_session_is_lost_by_faults_and_by_changes_from_each_engine_to_the_next",
            "tests/e2e/test_sessions.py::"
            "test_no_session_is_lost_by_changes_of_the_engine_and_of_the_key_nor_by_memcached",
        ),
    ),
    "key": Change(
        title="The first step of `cluster rotate-key`",
        make=everywhere(_accept_another_key),
        counted=counted_by(
            "tests/local/test_sessions.py::test_a_rotated_key_logs_nobody_out_and_the_old_one_is_gone_in_the_end",
            "tests/e2e/test_sessions.py::"
            "test_no_session_is_lost_by_changes_of_the_engine_and_of_the_key_nor_by_memcached",
        ),
    ),
    "tls": Change(
        title="TLS",
        make=everywhere(_tls),
        counted={"local": (REDIRECTED,), "docker": (ANOTHER_NGINX, REDIRECTED)},
        version="1.22",
    ),
    "site": Change(
        title="A change of the site",
        make=of_stack(lambda stack: stack["site"].update(client_max_body_size="20m", proxy_read_timeout="2m")),
        counted=counted_by(),
    ),
    "database": Change(
        title="Another database",
        make={"local": lambda stand: stand.edit_stack(_leave_database)},
        counted=counted_by(
            docker="tests/e2e/test_plan.py::test_another_database_costs_the_requests_that_need_it_and_no_session"
        ),
    ),
    "nginx-image": Change(
        title="Another image of nginx",
        make={},
        counted=counted_by(docker=ANOTHER_NGINX),
    ),
    "broken-nginx": Change(
        title="A value that nginx refuses",
        make=of_stack(_refuse),
        counted=counted_by(),
    ),
    "drift": Change(
        title="Something was changed by hand",
        make={},
        counted=counted_by(),
    ),
}


# --- what is said


@dataclass
class Recorder:
    """Makes changes to a stand that is up, and takes them back. name: what its records call it."""

    stand: Stand
    platform: str
    name: str
    make: Mapping[str, Callable[[Stand], object]]
    _stack: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._stack = copy.deepcopy(self.stand.stack)
        self.release = self.stand.release()

    @contextmanager
    def made(self, change: str) -> Iterator[None]:
        """Make a change of the files; take it back in the end."""
        with tempfile.TemporaryDirectory() as kept:
            project = shutil.copytree(self.stand.project, Path(kept) / "project", symlinks=True)
            secrets = self.stand.kept_secrets()
            self.make[change](self.stand)
            try:
                yield
            finally:
                self.stand.stack = copy.deepcopy(self._stack)
                self.stand.write()
                shutil.rmtree(self.stand.project)
                shutil.copytree(project, self.stand.project, symlinks=True)
                self.stand.put_back_secrets(secrets)

    def said(self) -> dict[str, str]:
        """Return what `cluster plan` says in each form, as it is recorded."""
        return {
            form: self._plain(self.stand.run("plan", self.stand.name, option).output) for form, option in FORMS.items()
        }

    def _plain(self, text: str) -> str:
        tls = self.stand.stack["site"].get("tls")
        text = LABEL.sub(rf"self-signed from 2026-07 for \1 names, {CERTIFICATE}", text)
        text = re.sub(rf"\b{self.stand.port}\b", PORT, text)
        text = re.sub(rf"\b{tls['listen']}\b", SECURE_PORT, text) if tls else text
        text = DIGEST.sub(lambda found: FORMER if found[0] == self.release else WANTED, text)
        return re.sub(rf"\b{self.stand.name}\b", self.name, text)

    def assert_recorded(self, change: str, *, renew: bool, version: str = "") -> None:
        """Assert that what is said is what is recorded; with `renew` record it.

        version: of the nginx on this machine.
        """
        said = self.said()
        of = CHANGES[change].version
        kept = {form: PLANS / self.platform / f"{change}.{form}" for form in FORMS}
        if renew:
            for form, path in kept.items():
                path.write_text(said[form])
            write_document()
        recorded = {form: path.read_text() for form, path in kept.items()}
        if of and version and not version.startswith(f"{of}."):
            said, recorded = ({form: OF_NGINX.sub("", text) for form, text in one.items()} for one in (said, recorded))
        for form, text in said.items():
            lines = difflib.unified_diff(
                recorded[form].splitlines(), text.splitlines(), "recorded", "said", lineterm=""
            )
            told = "\n".join(lines)
            assert text == recorded[form], f"`pytest --renew-plans` records {change}.{form} as it is now:\n{told}"


# --- the document


def written() -> str:
    """Return what the document shows of the records."""
    lines = ["| change | what it costs | counted by |", "|---|---|---|"]
    shown = []
    for name, change in CHANGES.items():
        records = {one: PLANS / one / f"{name}.txt" for one in ("local", "docker")}
        texts = {one: path.read_text() for one, path in records.items() if path.is_file()}
        costs = dict.fromkeys(text.partition("\n")[0].partition(": ")[2] for text in texts.values())
        proofs = dict.fromkeys(proof.partition("::")[0] for one in texts for proof in change.counted[one])
        lines.append(f"| {change.title} | {'; on Docker: '.join(costs)} | {', '.join(f'`{one}`' for one in proofs)} |")
        for one in [*texts] if len(costs) > 1 else [*texts][:1]:
            where = ", on Docker" if one == "docker" else ""
            shown += ["", f"{change.title}{where}:", "", "```", *texts[one].rstrip("\n").split("\n"), "```"]
    release = (PLANS / "docker" / "release.md").read_text().rstrip("\n").split("\n")
    shown += ["", "A pull request has a release on Docker so:", "", "````markdown", *release, "````"]
    return "\n".join([*lines, *shown])


def write_document() -> None:
    """Write into the document what is recorded."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{written()}\n{END}{after}")
