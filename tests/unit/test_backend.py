"""`cluster init --backend`: where Pulumi keeps a team's states, named in Pulumi.yaml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cluster.errors import CommandError
from platforms.base import Shared
from platforms.pulumi.backend import VARIABLE, named_backend, share
from platforms.pulumi.plain import plain
from tests.unit.pulumi_mocks import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "name: django-cluster  # a comment\nruntime: python\n"

URL = "s3://states/cluster?region=eu-central-1"


class Engine:
    """What a backend is asked of Pulumi. there: the resources in a stack's state; None for no stack."""

    stack = "prod"

    def __init__(self, root: Path, there: list[dict[str, Any]] | None = None, unusable: str = "") -> None:
        self.root, self.there, self.unusable = root, there, unusable
        self.said: list[str] = []
        self.made: list[str] = []
        self.say, self.make_stack = self.said.append, self.made.append

    def find(self) -> list[dict[str, Any]] | None:
        if self.unusable and named_backend(self.root):
            raise CommandError(self.unusable)
        return self.there


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(VARIABLE, raising=False)
    (tmp_path / "Pulumi.yaml").write_text(TEXT)
    return tmp_path


def ask(engine: Engine, backend: str | None = None, provider: str | None = None) -> None:
    share(engine, Shared(backend=backend, secrets_provider=provider))  # type: ignore[arg-type]


def test_the_repository_s_own_file_names_none() -> None:
    assert named_backend(ROOT) is None


def test_it_is_named_once_and_the_rest_of_the_file_stays(root: Path) -> None:
    engine = Engine(root)
    ask(engine, URL)
    assert (root / "Pulumi.yaml").read_text() == f"{TEXT}backend:\n  url: {URL}\n"
    assert named_backend(root) == URL
    assert engine.said == [f"Pulumi.yaml names {URL}: commit it, and whoever has the repository finds the stacks there"]
    ask(engine, URL)
    assert (len(engine.said), engine.made) == (1, [])


def test_one_that_nobody_can_use_is_not_named_so_that_the_right_one_can_be(root: Path) -> None:
    engine = Engine(root, unusable="pulumi: could not list bucket:\n  no such bucket")
    with pytest.raises(CommandError) as raised:
        ask(engine, "s3://sttaes")
    words = "can't be used, and Pulumi.yaml does not name it: could not list bucket: no such bucket"
    assert str(raised.value) == f"--backend: s3://sttaes {words}"
    assert ((root / "Pulumi.yaml").read_text(), engine.said) == (TEXT, [])
    ask(Engine(root), URL)
    assert named_backend(root) == URL


def test_another_one_is_refused_and_so_is_one_beside_the_environment_s(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(Engine(root), URL)
    with pytest.raises(
        CommandError, match=r"^--backend: backend\.url in Pulumi\.yaml is s3://states/cluster\S+, where"
    ):
        ask(Engine(root), "gs://other")
    monkeypatch.setenv(VARIABLE, "file:///srv/other")
    with pytest.raises(CommandError, match=r"PULUMI_BACKEND_URL is file:///srv/other, which goes before Pulumi\.yaml"):
        ask(Engine(root), URL)


def test_a_stack_that_runs_is_not_left_where_its_state_is(root: Path) -> None:
    with pytest.raises(CommandError, match="stack prod runs, and its state is in another place"):
        ask(Engine(root, [{"urn": "one"}]), URL)
    assert (root / "Pulumi.yaml").read_text() == TEXT
    ask(Engine(root, []), URL)  # one in which there is nothing is made again


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("states", "must begin with s3://, gs://, azblob://, https://, file://; got states"),
        ("s3://a b", "must begin with"),
        ("file://~", "must be absolute, the same on every machine"),
        ("file://srv/state", "must be absolute"),
        ("https://user:secret@example.org", "must hold no credentials"),
    ],
)
def test_what_is_no_place_for_a_team_is_refused_in_a_line(root: Path, url: str, words: str) -> None:
    with pytest.raises(CommandError) as refused:
        ask(Engine(root), url)
    assert str(refused.value).startswith("--backend: "), refused
    assert words in str(refused.value)
    assert "secret" not in str(refused.value).replace("--secrets", "")
    assert (root / "Pulumi.yaml").read_text() == TEXT


def test_a_backend_that_is_written_in_another_way_is_not_written_over(root: Path) -> None:
    text = f"{TEXT}backend: {{}}\n"
    (root / "Pulumi.yaml").write_text(text)
    with pytest.raises(CommandError, match=r"Pulumi\.yaml: has a `backend` that names no URL"):
        ask(Engine(root), URL)
    assert (root / "Pulumi.yaml").read_text() == text


def test_a_stack_is_made_with_what_encrypts_its_secrets(root: Path) -> None:
    engine = Engine(root)
    ask(engine, URL, "awskms://alias/cluster?region=eu-central-1")
    assert engine.made == ["awskms://alias/cluster?region=eu-central-1"]
    with pytest.raises(
        CommandError, match=r"--secrets-provider: stack prod is there.*change-secrets-provider gcpkms://k"
    ):
        ask(Engine(root, []), None, "gcpkms://k")
    with pytest.raises(CommandError, match="--secrets-provider: must be passphrase, or begin with awskms://"):
        ask(Engine(root), None, "age://k")


def test_what_a_library_of_the_backend_logs_is_no_word_of_pulumi_s() -> None:
    said = (
        "SDK 2026/11/27 18:12:05 WARN Response has no supported checksum. Not validating response payload.\n"
        "error: could not list bucket: no such bucket\n"
    )
    assert plain(said) == "could not list bucket: no such bucket"
