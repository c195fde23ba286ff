"""What is told of a failure."""

from __future__ import annotations

import pytest

from cluster.cli.context import tell, warn
from cluster.cli.failures import explain
from cluster.release import ReleaseError


@pytest.mark.parametrize(
    "words",
    [
        "cp: No space left on device",
        "cause: `/srv/environments/CACHEDIR.TAG`: No\n       space left on device (os error 28)",
    ],
)
def test_a_full_disk_is_told_of_however_the_line_is_broken(words: str) -> None:
    assert "free some room" in str(explain(ReleaseError(words)))


def test_other_failures_are_told_as_they_are() -> None:
    assert explain(ReleaseError("no manage.py")) == "no manage.py"


def test_no_word_of_a_project_s_obeys_a_terminal_or_ends_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[2Jb \udcff c\nd"  # as the name of a file may be
    tell(hostile)
    warn(hostile)
    said = capsys.readouterr()
    assert said.out == said.err == "a\N{REPLACEMENT CHARACTER}[2Jb \N{REPLACEMENT CHARACTER} c\nd\n"
