"""What is told of a failure."""

from __future__ import annotations

import io
import os

import pytest

from cli import take_any_name
from cli.failures import explain
from cluster.console import tell, warn
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


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_name_that_is_no_text_is_printed(encoding: str) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding, errors="strict")
    take_any_name(stream)
    print(os.fsdecode(b"media/\xff.jpg"), file=stream, flush=True)
    assert written.getvalue() == b"media/\\udcff.jpg\n"


def test_no_word_of_a_project_s_obeys_a_terminal_or_ends_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[2Jb \udcff c\nd"  # as the name of a file may be
    tell(hostile)
    warn(hostile)
    said = capsys.readouterr()
    assert said.out == said.err == "a\N{REPLACEMENT CHARACTER}[2Jb \N{REPLACEMENT CHARACTER} c\nd\n"
