"""What a project loads is not looked through for garbage; what it does later is, and its own choice stays its own."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from contextlib import closing
from typing import Any

import pytest

from cluster_runtime.loading import loading
from tests.runtime.standing import SETTINGS, URLS, Stand

#: Says how the collector is set, in a view and in a command.
COLLECTOR = """
import gc

def collector():
    return {"thresholds": gc.get_threshold(), "enabled": gc.isenabled(), "frozen": gc.get_freeze_count()}
"""

FILES = {
    "mini/collector.py": COLLECTOR,
    "mini/management/__init__.py": "",
    "mini/management/commands/__init__.py": "",
    "mini/management/commands/collector.py": """
import json
from django.core.management.base import BaseCommand
from mini.collector import collector

class Command(BaseCommand):
    def handle(self, **options):
        print(json.dumps(collector()))
""",
    "mini/urls.py": URLS
    + """
from mini.collector import collector
urlpatterns.append(path("collector", lambda request: JsonResponse(collector())))
""",
}

#: Objects that Django alone has once it is loaded.
LOADED = 20_000


#: How Python sets the collector. (The tests' own is set otherwise.)
USUAL = json.loads(subprocess.check_output([sys.executable, "-c", "import gc; print([*gc.get_threshold()])"]))


@pytest.mark.parametrize(
    ("said", "thresholds", "enabled"),
    [
        ("", USUAL, True),
        ("import gc\ngc.set_threshold(5000, 20, 30)\n", [5000, 20, 30], True),
        ("import gc\ngc.disable()\n", USUAL, False),
    ],
    ids=["nothing", "thresholds", "off"],
)
@pytest.mark.parametrize("preload", [True, False], ids=["preloaded", "by each worker"])
def test_instances_and_commands_collect_as_the_project_says(
    said: str, thresholds: list[int], enabled: bool, preload: bool
) -> None:
    settings = SETTINGS.replace("INSTALLED_APPS = []", 'INSTALLED_APPS = ["mini"]') + said
    with closing(Stand({**FILES, "mini/settings.py": settings})) as stand:
        running = stand.serving(preload=preload)
        found = [running.json("/collector"), command(stand)]
    for one in found:
        assert (one["thresholds"], one["enabled"]) == (thresholds, enabled)
        assert one["frozen"] > LOADED


def command(stand: Stand) -> dict[str, Any]:
    words = [sys.executable, "-P", "-m", "cluster_runtime.manage", "collector"]
    done = subprocess.run(words, env=stand.environment(stand.config()), capture_output=True, text=True, check=True)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_a_failure_while_loading_leaves_the_collector_as_it_was() -> None:
    def fail() -> None:
        with loading():
            assert gc.get_threshold()[0] == 0
            raise ImportError

    before = gc.get_threshold()
    with pytest.raises(ImportError):
        fail()
    assert gc.get_threshold() == before
    gc.unfreeze()
