"""The search of a directory in which others write: what goes away is left out, what is there is found."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trees import below, files_with


def tree(tmp_path: Path) -> Path:
    (tmp_path / "top" / "inner").mkdir(parents=True)
    (tmp_path / "top" / "inner" / "one").write_text("a secret of one")
    (tmp_path / "top" / "two").write_text("nothing")
    (tmp_path / "top" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "outside").write_text("a secret outside")
    return tmp_path / "top"


def test_files_that_hold_a_value_are_found_and_links_are_not_followed(tmp_path: Path) -> None:
    top = tree(tmp_path)
    assert files_with(top, "secret") == [top / "inner" / "one"]
    assert files_with(top, b"nothing", "secret") == [top / "inner" / "one", top / "two"]
    assert files_with(top, "elsewhere") == []
    assert files_with(top, "secret", links=True) == [top / "inner" / "one", top / "link"]


def test_paths_come_once_and_what_is_left_out_is_not_entered(tmp_path: Path) -> None:
    top = tree(tmp_path)
    names = ["top", "inner", "one", "link", "two"]
    assert [path.name for path, _ in below(top)] == names
    assert [path.name for path, _ in below(top, top / "inner")] == ["top", "link", "two"]


@pytest.mark.parametrize("gone", ["one", "inner"])
def test_what_goes_away_between_the_listing_and_the_look_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    top, listed = tree(tmp_path), Path.iterdir

    def listing(path: Path) -> Iterator[Path]:
        found = list(listed(path))
        if gone in {one.name for one in found}:
            (top / "inner" / "one").unlink(missing_ok=True)
            if gone == "inner":
                (top / "inner").rmdir()
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", listing)
    assert files_with(top, "secret", "nothing") == [top / "two"]


def test_what_goes_away_between_the_look_and_the_reading_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, read = tree(tmp_path), Path.read_bytes

    def reading(path: Path) -> bytes:
        if path.name == "one":
            path.unlink()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", reading)
    assert files_with(top, "secret", "nothing") == [top / "two"]


def test_a_search_that_could_find_nothing_is_an_error(tmp_path: Path) -> None:
    top = tree(tmp_path)
    (tmp_path / "empty").mkdir()
    for directory in (tmp_path / "empty", tmp_path / "gone"):
        with pytest.raises(AssertionError):
            files_with(directory, "secret")
    for values in ((), ("",), ("secret", "")):
        with pytest.raises(AssertionError):
            files_with(top, *values)
