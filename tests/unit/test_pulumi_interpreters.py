"""What stands for Python where the engine starts one is a fork of a process that has imported much."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from platforms.pulumi.interpreters import works, write
from platforms.pulumi.programs import Programs
from tests.processes import lives

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 120.0


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Python whose processes are forks of one that has imported `fractions`."""
    directory = tmp_path_factory.mktemp("python")
    programs = Programs(directory, ("fractions",))
    yield programs.interpreter(directory / "environment") / "bin" / "python"
    assert programs.process.stdin is not None
    programs.process.stdin.close()
    assert programs.process.wait(PATIENCE) == 0


def said(python: Path, *words: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [python, *words], capture_output=True, text=True, check=False, timeout=PATIENCE, **more
    )


def test_it_has_imported_what_it_was_made_with(python: Path) -> None:
    assert said(python, "-c", "import sys; print('fractions' in sys.modules)").stdout == "True\n"
    assert said(Path(sys.executable), "-c", "import sys; print('fractions' in sys.modules)").stdout == "False\n"


def test_directory_environment_words_and_streams_are_those_of_who_starts_it(python: Path, tmp_path: Path) -> None:
    (tmp_path / "found.py").write_text(
        "import os, sys\nprint(os.getcwd(), os.environ['TOLD'], sys.argv[1:], sys.stdin.read(), __name__)\n"
        "print('wrong', file=sys.stderr)\n"
    )
    done = said(python, "-u", "-m", "found", "a", "b c", cwd=tmp_path, env={**os.environ, "TOLD": "told"}, input="in")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path} told ['a', 'b c'] in __main__\n")
    assert done.stderr == "wrong\n"


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('no')", 1, "no\n"),
        ("raise SystemExit", 0, ""),
        ("import no_such_module", 1, "ModuleNotFoundError: No module named 'no_such_module'\n"),
        ("raise RuntimeError('\\udcff is no text')", 1, "RuntimeError: \\udcff is no text\n"),
        (
            "import threading, time\nthreading.Thread(target=lambda: print(time.sleep(0.3) or 'late')).start()",
            0,
            "late\n",
        ),
        ("import atexit; atexit.register(print, 'at its end')", 0, "at its end\n"),
    ],
)
def test_it_ends_as_python_does(python: Path, code: str, status: int, words: str) -> None:
    for one in (python, Path(sys.executable)):
        done = said(one, "-c", code)
        assert done.returncode == status
        assert (done.stdout + done.stderr).endswith(words)


@pytest.mark.parametrize("words", [("-c", "import sys; print(sys.argv)", "a", "-u"), ("-u", "-m", "found", "-u", "b")])
def test_words_behind_those_of_python_are_the_programs_own(
    python: Path, words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "found.py").write_text("import sys; print(sys.argv[1:])\n")
    theirs = said(Path(sys.executable), *words, cwd=tmp_path)
    assert theirs.returncode == 0
    assert said(python, *words, cwd=tmp_path).stdout == theirs.stdout


def test_what_is_written_is_there_at_once(python: Path) -> None:
    code = "import sys; sys.stdout.buffer.write(b'40000'); sys.stdin.read()"
    with subprocess.Popen([python, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == b"40000"  # while it waits
        assert process.poll() is None
        process.communicate()


def test_many_run_beside_each_other(python: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda number=number: found.append(said(python, "-c", f"print({number})").stdout))
        for number in range(8)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join(PATIENCE)
    assert sorted(found) == [f"{number}\n" for number in range(8)]


def test_it_ends_with_who_was_started(python: Path) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert lives(pid)
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while lives(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_other_words_are_for_python_itself(python: Path) -> None:
    assert said(python, "--version").stdout == said(Path(sys.executable), "--version").stdout


def test_where_nobody_answers_it_is_python_itself(tmp_path: Path) -> None:
    alone = write(tmp_path / "environment", tmp_path / "nobody") / "bin" / "python"
    assert said(alone, "-c", "import sys; print(sys.prefix, sys.argv)").stdout == f"{sys.prefix} ['-c']\n"
    with closing(socket.socket(socket.AF_UNIX)) as ended:
        ended.bind(str(tmp_path / "nobody"))
    assert said(alone, "-c", "print('there')").stdout == "there\n"


def test_where_what_answers_is_killed_before_there_is_a_fork_it_is_python_itself(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()

        def hang_up() -> None:
            listener.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        alone = write(tmp_path / "environment", tmp_path / "socket") / "bin" / "python"
        assert said(alone, "-c", "print('there')").stdout == "there\n"


def test_what_cannot_be_executed_does_not_work(tmp_path: Path) -> None:
    made = write(tmp_path / "environment", tmp_path / "nobody")
    assert works(made)
    (made / "bin" / "python").chmod(0o600)  # as all is where nothing may be executed
    assert not works(made)


def test_who_is_killed_leaves_no_socket(tmp_path: Path) -> None:
    programs = Programs(tmp_path, ())
    assert programs.interpreters.exists()
    assert programs.process.stdin is not None
    programs.process.stdin.close()  # as the kernel closes it
    programs.process.wait(PATIENCE)
    assert not programs.interpreters.parent.exists()


def test_a_path_may_have_spaces_and_quotes(tmp_path: Path) -> None:
    strange = tmp_path / "o'clock in here"
    alone = write(strange / "environment", strange / "nobody") / "bin" / "python"
    assert said(alone, "-c", "print('there')").stdout == "there\n"
