"""What a project has chosen itself: DEBUG from the environment, what is made from it, and what must not be replaced."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster_runtime.debug import variables
from cluster_runtime.describe import NOT_IMPORTED, REFUSED
from cluster_runtime.sources import Source, place_of, settings_sources
from tests.runtime.standing import SETTINGS

if TYPE_CHECKING:
    from tests.runtime.standing import Stand

CONSOLE = "django.core.mail.backends.console.EmailBackend"
SMTP = "django.core.mail.backends.smtp.EmailBackend"


def describe(
    stand: Stand, settings: str, module: str = "mini.settings", starter: tuple[str, ...] = (), **values: Any
) -> tuple[int, Any, str]:
    """Return the status of describe, what it wrote, and what it printed. starter: a program that becomes it."""
    stand.write({"mini/settings.py": SETTINGS + settings})
    config = stand.config(settings=module, **values)
    output = stand.root / "facts.json"
    done = subprocess.run(
        [*starter, sys.executable, "-m", "cluster_runtime.describe", str(output)],
        env=stand.environment(config),
        cwd=stand.root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, json.loads(output.read_text()), done.stderr


def facts(stand: Stand, settings: str, **values: Any) -> dict[str, Any]:
    status, found, printed = describe(stand, settings, **values)
    assert status == 0, printed
    assert isinstance(found, dict)
    return found


def source(text: str) -> list[Source]:
    return [Source("settings", Path("settings.py"), ast.parse(text))]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('DEBUG = os.environ.get("DJANGO_DEBUG", "True") == "True"', {"DJANGO_DEBUG": "False"}),
        ('DEBUG = os.environ.get("DEBUG", "1") == "1"', {"DEBUG": "False"}),
        ('DEBUG = os.environ["DEBUG"] != "0"', {"DEBUG": "0"}),
        ('DEBUG = os.getenv("DEBUG", "True") not in ("0", "False")', {"DEBUG": "False"}),
        ('DEBUG = bool(os.environ.get("DEBUG", True))', {"DEBUG": ""}),
        ('DEBUG = os.environ.get("DEBUG")', {"DEBUG": ""}),
        ('DEBUG = bool(int(os.environ.get("DEBUG", 1)))', {"DEBUG": "0"}),
        ('DEBUG = int(os.getenv("DEBUG", default="1"))', {"DEBUG": "0"}),
        ('DEBUG = json.loads(os.environ.get("DEBUG", "true"))', {"DEBUG": "0"}),
        ('DEBUG = ast.literal_eval(os.environ.get("DEBUG", "True"))', {"DEBUG": "False"}),
        ('DEBUG = strtobool(os.environ.get("DEBUG", "yes"))', {"DEBUG": "False"}),
        ('DEBUG = str(os.environ.get("DEBUG", "1")).lower() in ("1", "true", "yes")', {"DEBUG": "False"}),
        ('DEBUG = my_own(os.environ.get("DEBUG", "1"))', {"DEBUG": "False"}),
        ('DEBUG = env.bool("DJANGO_DEBUG", True)', {"DJANGO_DEBUG": "False"}),
        ('DEBUG = env("DEBUG")', {"DEBUG": "False"}),
        ('DEBUG = config("DEBUG", default=True, cast=bool)', {"DEBUG": "False"}),
        ('DEBUG = config("DEBUG", default=1, cast=int)', {"DEBUG": "0"}),
        ('DEBUG: bool = env.bool("DEBUG", default=True)', {"DEBUG": "False"}),
        ('SECRET_KEY, DEBUG = "x", env.bool("DEBUG", True)', {"DEBUG": "False"}),
        ('_debug = os.environ.get("APP_DEBUG", "on")\nDEBUG = _debug == "on"', {"APP_DEBUG": "False"}),
        ("class Settings(BaseSettings):\n    debug: bool = True\nDEBUG = Settings().debug", {"DEBUG": "False"}),
        (
            'class S(BaseSettings):\n    model_config = SettingsConfigDict(env_prefix="app_")\n    debug: bool = True',
            {"APP_DEBUG": "False"},
        ),
        ('DEBUG = os.environ.get("ENV") == "dev"', {}),
        ("DEBUG = True", {}),
        ('DEBUG = "DEBUG" in os.environ', {}),
    ],
)
def test_the_variable_that_debug_is_made_of_is_found_with_what_means_no(text: str, found: dict[str, str]) -> None:
    assert variables(source(text)) == found


FROM_ENVIRONMENT = f"""
import os
DEBUG = os.environ.get("MINI_DEBUG", "True") == "True"
OWN = DEBUG
EMAIL_BACKEND = "{CONSOLE}" if DEBUG else "{SMTP}"
"""


def test_settings_are_imported_with_debug_false_where_it_comes_from_the_environment(stand: Stand) -> None:
    found = facts(stand, FROM_ENVIRONMENT)
    assert found["email_backend"] == SMTP
    assert (found["debug_derived"], found["debug_unknown"]) == ([], "")


def test_the_stack_may_say_otherwise_and_is_told_what_comes_of_it(stand: Stand) -> None:
    found = facts(stand, FROM_ENVIRONMENT, environment={"MINI_DEBUG": "True"})
    assert found["email_backend"] == CONSOLE
    line = (SETTINGS + FROM_ENVIRONMENT).splitlines().index("OWN = DEBUG") + 1
    assert found["debug_derived"] == [
        {"name": "EMAIL_BACKEND", "where": f"mini/settings.py:{line + 1}"},
        {"name": "OWN", "where": f"mini/settings.py:{line}"},
    ]


LITERAL = """
import random, time
DEBUG = True
AT = time.time()
RANDOM = random.random()
A_FUNCTION = lambda: 1
SAME = 1
APPS = ["one"]
if DEBUG:
    APPS += ["toolbar"]
    ONLY = 1
"""


def test_what_is_made_from_a_plain_debug_is_named_and_nothing_else(stand: Stand) -> None:
    found = facts(stand, LITERAL)
    assert [setting["name"] for setting in found["debug_derived"]] == ["APPS", "ONLY"]
    line = (SETTINGS + LITERAL).splitlines().index('    APPS += ["toolbar"]') + 1
    assert found["debug_derived"][0]["where"] == f"mini/settings.py:{line}"


def test_what_a_base_module_made_before_production_said_false_is_named(stand: Stand) -> None:
    stand.write({"mini/production.py": "from .settings import *\nDEBUG = False\n"})
    status, found, printed = describe(stand, "DEBUG = True\nOPEN = DEBUG\n", "mini.production")
    assert status == 0, printed
    assert [setting["name"] for setting in found["debug_derived"]] == ["OPEN"]


def test_a_debug_that_is_false_costs_no_other_import(stand: Stand) -> None:
    count = "\nwith open('imports', 'a') as file:\n    file.write('x')\n"
    facts(stand, f"DEBUG = False{count}")
    assert (stand.project / "imports").read_text() == "x"


def test_settings_that_fail_without_debug_are_told_of(stand: Stand) -> None:
    found = facts(stand, "DEBUG = True\nif not DEBUG:\n    raise RuntimeError('no mail server')\n")
    assert found["debug_unknown"] == "RuntimeError: no mail server"


def test_settings_that_end_the_process_without_debug_are_told_of(stand: Stand) -> None:
    found = facts(stand, "DEBUG = True\nif not DEBUG:\n    print('told')\n    raise SystemExit('no licence')\n")
    assert found["debug_unknown"] == "SystemExit: no licence"


ODD = {
    "waits for no child": "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n",
    "waits for every child": (
        "import contextlib, os\nwith contextlib.suppress(ChildProcessError):\n    while True:\n        os.wait()\n"
    ),
    # As a daemon does; the test ends it.
    "leaves a daemon behind": (
        "import os, time\nif os.fork() == 0:\n"
        "    with open('daemons', 'a') as file:\n        file.write(f'{os.getpid()}\\n')\n"
        "    null = os.open(os.devnull, os.O_RDWR)\n    [os.dup2(null, number) for number in (0, 1, 2)]\n"
        "    time.sleep(900)\n    os._exit(0)\n"
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_project_that_is_odd_with_children_is_compared_all_the_same(stand: Stand, odd: str) -> None:
    found = facts(stand, f"{ODD[odd]}DEBUG = True\nOPEN = DEBUG\n")
    assert [setting["name"] for setting in found["debug_derived"]] == ["OPEN"]
    daemons = stand.project / "daemons"
    pids = [int(line) for line in daemons.read_text().split()] if daemons.exists() else []
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert len(pids) == (4 if "daemon" in odd else 0)


def test_whoever_started_it_may_wait_for_no_child(stand: Stand) -> None:
    starter = ("sh", "-c", "trap '' CHLD; exec \"$@\"", "sh")
    found = facts(stand, "DEBUG = True\nOPEN = DEBUG\n", starter=starter)
    assert [setting["name"] for setting in found["debug_derived"]] == ["OPEN"]


CLOSING = {
    "nothing after it": "",
    "files": "kept = [open(f'{number}.log', 'w+') for number in range(30)]\n",
    "sockets": "import socket\nkept = [socket.socketpair() for _ in range(20)]\n",
}


@pytest.mark.parametrize("opened", CLOSING)
def test_a_project_that_closes_what_it_did_not_open_is_told_that_it_was_not_compared(stand: Stand, opened: str) -> None:
    closing = f"import os, sys\nDEBUG = True\nOPEN = DEBUG\nos.closerange(3, 99)\n{CLOSING[opened]}"
    found = facts(stand, closing)
    assert found["debug_derived"] == []
    assert "Bad file descriptor" in found["debug_unknown"]
    assert not [path for path in stand.project.glob("*.log") if path.read_bytes()], "what it opened was written into"


def test_what_the_settings_set_in_the_environment_is_not_there_when_they_are_imported_again(stand: Stand) -> None:
    found = facts(stand, "import os\nDEBUG = True\nFOUND = os.environ.get('MINE')\nos.environ['MINE'] = 'x'\n")
    assert (found["debug_derived"], found["debug_unknown"]) == ([], "")


# --- what must not be replaced


OWN_ENGINE = 'SESSION_ENGINE = "mini.own_sessions"\n'
OWN_STORE = {"mini/own_sessions.py": "from django.contrib.sessions.backends.signed_cookies import SessionStore\n"}
SERVER = 'DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "HOST": "db"}}\n'


@pytest.mark.parametrize(
    ("settings", "values", "key"),
    [
        (OWN_ENGINE, {"sessions": {"engine": "db"}}, "sessions.engine"),
        (OWN_ENGINE, {"sessions": {"engine": "project"}}, None),
        (OWN_ENGINE, {"sessions": {"engine": "db", "replace": True}}, None),
        ('SESSION_ENGINE = "django.contrib.sessions.backends.cache"\n', {"sessions": {"engine": "db"}}, None),
        (SERVER, {"database": {"engine": "sqlite", "path": "/tmp/x"}}, "database.engine"),
        (SERVER, {"database": {"engine": "sqlite", "path": "/tmp/x", "replace": True}}, None),
        ('FORCE_SCRIPT_NAME = "/shop"\n', {}, "app.settings"),
        ('FORCE_SCRIPT_NAME = "/"\n', {}, None),
    ],
)
def test_what_a_project_has_chosen_is_kept_or_refused_in_a_line(
    stand: Stand, settings: str, values: dict[str, Any], key: str | None
) -> None:
    stand.write(OWN_STORE)
    status, found, printed = describe(stand, settings, **values)
    assert "own_session_engine" in found
    if key is None:
        assert status == 0, printed
    else:
        assert status == REFUSED, printed
        assert printed.startswith(f"{key}: ")
        assert printed.count("\n") == 1


#: Sets what an .env would, as wsgi.py does where it loads one.
LATE = """
import os
from django.core.wsgi import get_wsgi_application
os.environ["DJANGO_SETTINGS_MODULE"] = "mini.settings"
os.environ.setdefault("DATABASE_URL", "postgres://db/mini")
os.environ.setdefault("PAY_KEY", "secret")
os.environ.setdefault("LC_ALL", "C")
application = get_wsgi_application()
"""


@pytest.mark.parametrize(
    ("settings", "said", "named"),
    [
        ('PAY = os.environ.get("PAY_KEY")\n', {}, "DATABASE_URL, PAY_KEY"),
        ("", {}, "DATABASE_URL"),
        ('PAY = os.environ.get("PAY_KEY")\n', {"DATABASE_URL": "sqlite:////tmp/x", "PAY_KEY": "mine"}, ""),
        ('SECRET_KEY = os.environ.get("PAY_KEY", "x")\n', {"DATABASE_URL": "sqlite:////tmp/x"}, ""),
        (
            'SECRET_KEY = os.environ.get("PAY_KEY", "x")\nPAY = os.environ.get("PAY_KEY")\n',
            {"DATABASE_URL": "sqlite:////tmp/x"},
            "PAY_KEY",
        ),
        ('NAMED = os.environ["DJANGO_SETTINGS_MODULE"]\n', {"DATABASE_URL": "sqlite:////tmp/x"}, ""),
    ],
)
def test_what_the_applications_module_sets_too_late_for_the_settings_is_refused(
    stand: Stand, settings: str, said: dict[str, str], named: str
) -> None:
    stand.write({"mini/wsgi.py": LATE})
    settings = f'import os\nWSGI_APPLICATION = "mini.wsgi.application"\n{settings}'
    status, _found, printed = describe(stand, settings, environment=said)
    assert status == (REFUSED if named else 0), printed
    assert (f" sets {named}, which the settings read" in printed) == bool(named)


def test_lazy_settings_and_threads_of_the_projects_own_are_no_reason_not_to_describe_it(stand: Stand) -> None:
    lazy = "from django.utils.functional import lazystr\n"
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n"
    found = facts(
        stand,
        f'{lazy}{thread}DEBUG = True\nSTATIC_URL = MEDIA_URL = lazystr("/files/")\nAUTH_PASSWORD_VALIDATORS = None\n',
    )
    assert (found["static_url"], found["password_validators"]) == ("/files/", 0)


# --- a project that does not import


@pytest.mark.parametrize(
    ("settings", "variables"),
    [
        ('import os\nPAY = os.environ["PAY_KEY"]\n', ["PAY_KEY"]),
        ('import os\nHOSTS = os.environ.get("HOST_LIST").split(",")\n', ["HOST_LIST"]),
        ('import os\nCOUNT = int(os.getenv("A_COUNT"))\n', ["A_COUNT"]),
        ('import os\nif not os.environ.get("PAY_KEY"):\n    raise RuntimeError("PAY_KEY is not set")\n', ["PAY_KEY"]),
        (
            (
                "from django.core.exceptions import ImproperlyConfigured\n"
                'raise ImproperlyConfigured("Set the PAY_KEY environment variable")\n'
            ),
            ["PAY_KEY"],
        ),
        (
            'class UndefinedValueError(Exception): ...\nraise UndefinedValueError("PAY_KEY not found. Declare it")\n',
            ["PAY_KEY"],
        ),
        ('{}["PAY_KEY"]\n', []),
        ("import not_there\n", []),
        ('raise ValueError("BAD THING")\n', []),
    ],
)
def test_a_variable_that_is_missing_is_named(stand: Stand, settings: str, variables: list[str]) -> None:
    status, found, printed = describe(stand, settings)
    assert status == NOT_IMPORTED
    assert found["failure"]["variables"] == variables
    assert "Traceback" not in printed
    assert printed.count("mini/settings.py:") >= 1
    assert len(printed.splitlines()) < 10
    assert ("app.environment: the project needs" in printed) is bool(variables)


def test_a_module_that_is_missing_is_named(stand: Stand) -> None:
    _status, found, _printed = describe(stand, "import not_there.at_all\n")
    assert found["failure"]["module"] == "not_there"


def test_settings_are_followed_over_their_files(tmp_path: Path) -> None:
    files = {
        "site/settings/__init__.py": "from .base import *\n",
        "site/settings/base.py": "import os\nfrom helper import x\nA = 1\n",
        "helper.py": "import site.settings\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    sources = settings_sources("site.settings", tmp_path)
    assert [found.module for found in sources] == ["helper", "site.settings.base", "site.settings"]
    assert place_of(sources, "A", root=tmp_path) == "site/settings/base.py:3"
