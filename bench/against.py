"""How long `cluster plan --against` takes for a large project: `python -m bench.against` prints seconds.

The project is Django itself, as it is installed, with all its languages: its size is that of few projects. It is
committed to a repository of its own; then each tenth of its Python files is changed, and a release's requirements.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import django
import yaml

ROOT = Path(__file__).resolve().parents[1]

RUNS = 7

#: Seconds that it may take.
TARGET = 10.0

CONFIG = {
    "cluster:platform": "docker",
    "cluster:app": {"project": "./big", "settings": "settings"},
    "cluster:upstream": {"servers": 4},
    "cluster:site": {"server_names": ["localhost"]},
}


def make(top: Path) -> int:
    """Make the repository; return how many files the project has."""
    project = top / "big"
    shutil.copytree(Path(django.__file__).parent, project / "django", ignore=shutil.ignore_patterns("__pycache__"))
    (project / "manage.py").write_text("")
    (project / "settings.py").write_text("INSTALLED_APPS = []\n")
    (project / "requirements.txt").write_text("django==5.2\n")
    (top / "stacks").mkdir()
    (top / "stacks" / "Pulumi.big.yaml").write_text(yaml.safe_dump({"config": CONFIG}))
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@example.com", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "-A", "-f"), ("commit", "-q", "-m", "big")):
        subprocess.run(["git", "-C", str(top), *identity, *words], check=True)
    for path in sorted(project.rglob("*.py"))[::10]:
        path.write_text(f"{path.read_text()}\n# changed\n")
    (project / "requirements.txt").write_text("django==5.2.1\n")
    return sum(path.is_file() for path in project.rglob("*"))


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="bench-against-") as made:
        top = Path(made)
        files = make(top)
        taken = []
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}"}
        for _ in range(RUNS):
            began = time.monotonic()
            command = [sys.executable, "-m", "cluster", "plan", "--against", "git:HEAD"]
            done = subprocess.run(command, cwd=top, env=environment, capture_output=True, text=True, check=True)
            taken.append(time.monotonic() - began)
    print(done.stdout)
    print(
        f"{files:,} files, {RUNS} runs, {os.cpu_count()} cores: "
        f"{statistics.median(taken):.2f} s, {max(taken):.2f} s at most"
    )
    return 0 if max(taken) <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
