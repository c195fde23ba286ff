"""The settings overlay over projects as one finds them."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from cluster_runtime.config import ConfigError
from cluster_runtime.databases import from_url
from tests.runtime.standing import SECRET_KEY, SETTINGS, Stand

SHOW = """
import json, sys
from cluster_runtime.config import RuntimeConfig
from cluster_runtime.django_setup import load_application
load_application(RuntimeConfig.from_environment())
import os
from django.conf import settings
names = {name: getattr(settings, name, None) for name in dir(settings) if name.isupper()}
names["environment"] = os.environ["DJANGO_SETTINGS_MODULE"]
json.dump(names, open(sys.argv[1], "w"), default=str)
"""

CONNECT = """
import json, sys
from cluster_runtime.config import RuntimeConfig
from cluster_runtime.django_setup import load_application
load_application(RuntimeConfig.from_environment())
from django.db import connection, transaction
with connection.cursor() as cursor:
    found = {name: cursor.execute(f"PRAGMA {name}").fetchone()[0]
             for name in ("journal_mode", "synchronous", "busy_timeout")}
log = []
connection.connection.set_trace_callback(log.append)
with transaction.atomic(), connection.cursor() as cursor:
    cursor.execute("SELECT 1")
found["began"] = [line for line in log if line.startswith("BEGIN")]
json.dump(found, open(sys.argv[1], "w"))
"""


def run(stand: Stand, program: str, **values: Any) -> subprocess.CompletedProcess[str]:
    config = stand.config(**values)
    return subprocess.run(
        [sys.executable, "-c", program, str(stand.root / "out.json")],
        env=stand.environment(config),
        cwd=stand.root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def show(stand: Stand, settings: str | None = None, program: str = SHOW, **values: Any) -> dict[str, Any]:
    """Return the settings that Django has in the end; `settings` is the text of the project's own."""
    if settings is not None:
        stand.write({"mini/settings.py": SETTINGS + settings})
    done = run(stand, program, **values)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((stand.root / "out.json").read_text())
    return found


def test_what_the_stack_file_owns_replaces_the_projects(stand: Stand) -> None:
    stand.secret("secret_key_fallbacks", '["former"]')
    found = show(
        stand,
        'DEBUG = True\nALLOWED_HOSTS = ["*"]\nCSRF_TRUSTED_ORIGINS = ("https://own",)\nSECRET_KEY_FALLBACKS = ["x"]\n',
        hosts=["cluster", ".example.org"],
        origins=["http://cluster:8080"],
        static_root="/srv/static",
    )
    assert found["SECRET_KEY"] == SECRET_KEY
    assert found["SECRET_KEY_FALLBACKS"] == ["former"]
    assert found["DEBUG"] is False
    assert found["ALLOWED_HOSTS"] == ["cluster", ".example.org"]
    assert found["CSRF_TRUSTED_ORIGINS"] == ["https://own", "http://cluster:8080"]
    assert found["STATIC_ROOT"] == "/srv/static"
    assert found["SECURE_PROXY_SSL_HEADER"] == ["HTTP_X_FORWARDED_PROTO", "https"]
    assert found["USE_X_FORWARDED_HOST"] is True


def test_everything_else_stays_the_projects(stand: Stand) -> None:
    found = show(
        stand,
        """
MIDDLEWARE = ("django.middleware.common.CommonMiddleware",)
INSTALLED_APPS = ("django.contrib.contenttypes",)
CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "own.sqlite3"}}
LOGGING = {"version": 1, "disable_existing_loggers": False}
STATIC_ROOT = "own"
MY_OWN = "kept"
lower = "no setting"
""",
    )
    first, last = "cluster_runtime.cookies.secure_cookies", "cluster_runtime.trial.answer_arrived"
    assert found["MIDDLEWARE"] == [first, "django.middleware.common.CommonMiddleware", last]
    assert found["CACHES"] == {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    assert found["DATABASES"]["default"]["NAME"] == "own.sqlite3"
    assert found["LOGGING"] == {"version": 1, "disable_existing_loggers": False}
    assert (found["STATIC_ROOT"], found["MY_OWN"]) == ("own", "kept")


def test_a_project_that_says_next_to_nothing_has_what_it_needs(stand: Stand) -> None:
    stand.write({"bare.py": ""})
    found = show_module(stand, "bare")
    assert found["SECRET_KEY"] == SECRET_KEY
    assert found["LOGGING"]["loggers"]["django"]["handlers"] == ["stderr"]
    assert found["DATABASES"] == {}


def show_module(stand: Stand, module: str, **values: Any) -> dict[str, Any]:
    done = run(stand, SHOW, **{"settings": module, **values})
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((stand.root / "out.json").read_text())
    return found


def test_the_sessions_cache_stands_beside_the_projects_own(stand: Stand) -> None:
    sessions = {"engine": "cached_db", "memcached": ["/run/m1", "/run/m2"]}
    found = show(stand, 'CACHES = {"default": {"BACKEND": "own"}, "extra": {"BACKEND": "own"}}', sessions=sessions)
    assert set(found["CACHES"]) == {"default", "extra", "cluster_sessions"}
    assert found["CACHES"]["cluster_sessions"]["LOCATION"] == ["unix:/run/m1", "unix:/run/m2"]
    assert found["SESSION_CACHE_ALIAS"] == "cluster_sessions"
    found = show(stand, "", sessions=sessions)
    assert found["CACHES"]["default"]["BACKEND"].endswith("LocMemCache")


def test_a_wsgi_module_that_sets_its_settings_hard_gets_the_overlay_all_the_same(stand: Stand) -> None:
    stand.write(
        {
            "mini/wsgi.py": """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "mini.settings"
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
"""
        }
    )
    assert show(stand, 'WSGI_APPLICATION = "mini.wsgi.application"')["SECRET_KEY"] == SECRET_KEY
    assert show(stand, "", application="mini.wsgi:application")["SECRET_KEY"] == SECRET_KEY


def test_settings_may_be_a_package_of_several_files(stand: Stand) -> None:
    stand.write(
        {
            "conf/__init__.py": "",
            "conf/base.py": SETTINGS + 'MY_OWN = "base"\nOTHER = "base"\n',
            "conf/prod.py": 'from .base import *\nMY_OWN = "prod"\nSECRET_KEY = "prod"\n',
        }
    )
    found = show_module(stand, "conf.prod")
    assert (found["MY_OWN"], found["OTHER"], found["SECRET_KEY"]) == ("prod", "base", SECRET_KEY)


#: Does to Django what dynaconf's own module does: whoever imports its settings from then on gets dynaconf's.
DYNACONF = """
import sys
from django import conf


class Settings:
    configured = True

    def __init__(self, module):
        self.module, self.more = module, {}

    def __getattr__(self, name):
        known = vars(self)
        if name in known.get("more", {}):
            return known["more"][name]
        if hasattr(known["module"], name):
            return getattr(known["module"], name)
        from django.conf import global_settings
        return getattr(global_settings, name)

    def __dir__(self):
        return [*dir(conf.global_settings), *dir(self.module)]

    def populate_obj(self, module):
        vars(module).update(self.more)

    def update(self, data, merge):
        self.more |= data


def DjangoDynaconf(name):
    module = sys.modules[name]
    module.settings = module.DYNACONF = settings = Settings(module)

    class Wrapper:
        def __getattribute__(self, name):
            return settings if name == "settings" else getattr(conf, name)

    sys.modules["django.conf"] = Wrapper()
    return settings
"""


def test_settings_that_dynaconf_has_put_in_the_place_of_djangos_are_the_overlays_too(stand: Stand) -> None:
    stand.write({"dynaconf.py": DYNACONF})
    found = show(
        stand,
        'DEBUG = True\nOWN = "own"\nimport dynaconf\nsettings = dynaconf.DjangoDynaconf(__name__)\n',
        hosts=["cluster"],
    )
    assert (found["DEBUG"], found["SECRET_KEY"], found["ALLOWED_HOSTS"]) == (False, SECRET_KEY, ["cluster"])
    assert found["SESSION_ENGINE"].startswith("cluster_runtime.")
    assert (found["OWN"], found["ROOT_URLCONF"]) == ("own", "mini.urls")


#: Makes settings of the class that a variable names, in the module that DJANGO_SETTINGS_MODULE names, as
#: django-configurations does.
CONFIGURATIONS = """
import importlib.machinery, os, sys


class Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        made = getattr(module, os.environ["DJANGO_CONFIGURATION"])
        vars(module).update({name: getattr(made, name) for name in dir(made) if name.isupper()})


class Importer:
    def find_spec(self, name, path=None, target=None):
        if name != os.environ["DJANGO_SETTINGS_MODULE"]:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        found.loader = Loader(name, found.origin)
        return found


def install():
    sys.meta_path.insert(0, Importer())
"""


def test_settings_may_be_a_class_of_django_configurations(stand: Stand) -> None:
    lines = "".join(f"    {line}\n" for line in SETTINGS.strip().splitlines())
    stand.write(
        {
            "configurations/__init__.py": "Configuration = object\n",
            "configurations/importer.py": CONFIGURATIONS,
            "mini/settings.py": f"from configurations import Configuration\nclass Base(Configuration):\n{lines}"
            "class Prod(Base):\n    OWN = 'own'\n",
        }
    )
    found = show(stand, environment={"DJANGO_CONFIGURATION": "Prod"})
    assert (found["OWN"], found["ROOT_URLCONF"], found["SECRET_KEY"]) == ("own", "mini.urls", SECRET_KEY)


def test_a_package_of_the_projects_may_be_called_like_one_that_makes_settings(stand: Stand) -> None:
    stand.write({"configurations.py": "OWN = 'own'\n"})
    assert show(stand, "from configurations import OWN\n")["OWN"] == "own"


def test_settings_are_imported_while_the_environment_names_them(stand: Stand) -> None:
    found = show(stand, "import os\nNAMED = os.environ['DJANGO_SETTINGS_MODULE']\n")
    assert (found["NAMED"], found["environment"]) == ("mini.settings", "cluster_runtime.settings")


def test_settings_see_the_plain_and_the_secret_environment(stand: Stand) -> None:
    stand.secret("secret_environment", '{"TOKEN": "t"}')
    text = 'import os\nBOTH = [os.environ["PLAIN"], os.environ["TOKEN"]]\n'
    assert show(stand, text, environment={"PLAIN": "p"})["BOTH"] == ["p", "t"]


def test_settings_see_where_the_broker_is_and_what_the_stack_says_of_it_counts(stand: Stand) -> None:
    stand.secret("broker_url", "rediss://:canary@10.1.0.31:6380/0")
    text = 'import os\nWHERE = os.environ["CLUSTER_BROKER_URL"]\n'
    assert show(stand, text)["WHERE"] == "rediss://:canary@10.1.0.31:6380/0"
    stand.secret("secret_environment", '{"CLUSTER_BROKER_URL": "amqp://own"}')
    assert show(stand, text)["WHERE"] == "amqp://own"


def test_a_missing_secret_key_is_an_error_that_names_the_file(stand: Stand) -> None:
    (stand.secrets / "secret_key").unlink()
    done = run(stand, SHOW)
    assert done.returncode != 0
    assert f"{stand.secrets}/secret_key: missing or empty" in done.stderr


def test_sqlite_is_in_wal_and_begins_with_the_write_lock(stand: Stand) -> None:
    database = {"engine": "sqlite", "path": str(stand.root / "db.sqlite3")}
    found = show(stand, "", program=CONNECT, database=database)
    assert found == {"journal_mode": "wal", "synchronous": 1, "busy_timeout": 20_000, "began": ["BEGIN IMMEDIATE"]}


def test_a_database_of_the_stack_files_leaves_the_projects_others_and_its_transactions(stand: Stand) -> None:
    found = show(
        stand,
        """
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "own", "ATOMIC_REQUESTS": True},
    "archive": {"ENGINE": "django.db.backends.sqlite3", "NAME": "archive"},
}
""",
        database={"engine": "sqlite", "path": "/srv/db.sqlite3"},
    )
    assert found["DATABASES"]["default"]["NAME"] == "/srv/db.sqlite3"
    assert found["DATABASES"]["default"]["ATOMIC_REQUESTS"] is True, "views rely on it"
    assert found["DATABASES"]["archive"]["NAME"] == "archive"


def test_connections_are_kept_under_wsgi_and_not_under_asgi(stand: Stand) -> None:
    database = {"engine": "sqlite", "path": "/srv/db.sqlite3"}
    ages = [
        show(stand, "", database=database, interface=interface)["DATABASES"]["default"]["CONN_MAX_AGE"]
        for interface in ("wsgi", "asgi")
    ]
    assert ages == [600, 0]


def test_an_external_database_without_its_url_is_an_error(stand: Stand) -> None:
    done = run(stand, SHOW, database={"engine": "external"})
    assert done.returncode != 0
    assert "database_url: missing or empty" in done.stderr


def test_management_commands_run_under_the_overlay_and_may_print(stand: Stand) -> None:
    stand.write({"mini/settings.py": SETTINGS + 'print("settings were loaded")\n'})
    config = stand.config()
    command = [sys.executable, "-m", "cluster_runtime.manage", "diffsettings", "--output", "unified"]
    done = subprocess.run(
        command, env=stand.environment(config), cwd=stand.root, capture_output=True, text=True, timeout=60, check=True
    )
    assert "settings were loaded" in done.stdout
    assert "SECRET_KEY" in done.stdout


def describe(settings: str, out: str = "facts.json") -> dict[str, Any]:
    with closing(Stand()) as stand:
        stand.write({"mini/settings.py": SETTINGS + settings})
        path = stand.root / out
        command = [sys.executable, "-m", "cluster_runtime.describe", str(path)]
        environment = stand.environment(stand.config())
        subprocess.run(command, env=environment, cwd=stand.root, timeout=60, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(path.read_text())
        return {**found, "project": str(stand.project)}


def test_a_project_is_described_whatever_it_prints() -> None:
    printing = 'print("noise")\nSTATIC_URL = "static/"\nINSTALLED_APPS = ("django.contrib.staticfiles",)\n'
    database = 'DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}\n'
    with ThreadPoolExecutor() as pool:
        plain, bare = pool.map(describe, [printing + database, ""])
    assert (plain["static_url"], plain["static_app"], plain["sessions_app"]) == ("/static/", True, False)
    assert plain["database_name"] == f"{plain['project']}/db.sqlite3"
    assert (bare["database_name"], bare["session_middleware"], bare["wsgi_application"]) == ("", False, None)


def test_an_https_only_project_is_healthy_and_redirects_http_clients(stand: Stand) -> None:
    stand.write(
        {
            "mini/settings.py": SETTINGS
            + 'SECURE_SSL_REDIRECT = True\nMIDDLEWARE = ("django.middleware.security.SecurityMiddleware",)\n'
        }
    )
    running = stand.serving(hosts=[".example.org"], health={"path": "/"})
    assert running.get("/", Host="www.example.org", X_Forwarded_Proto="http")[0] == 301
    assert running.json("/", Host="www.example.org", X_Forwarded_Proto="https")["secure"] is True
    assert running.get("/", Host="evil.org", X_Forwarded_Proto="https")[0] == 400


# --- database URLs


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgres://user:secret@db.example.org:5433/name",
            {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": "name",
                "USER": "user",
                "PASSWORD": "secret",
                "HOST": "db.example.org",
                "PORT": "5433",
            },
        ),
        ("postgresql://user@db/name", {"PASSWORD": "", "PORT": "", "HOST": "db"}),
        ("postgresql:///name", {"NAME": "name", "HOST": "", "USER": ""}),
        ("mysql://u:p@db/name", {"ENGINE": "django.db.backends.mysql"}),
        ("mariadb://u:p@db/name", {"ENGINE": "django.db.backends.mysql"}),
        ("oracle://u:p@db:1521/name", {"ENGINE": "django.db.backends.oracle"}),
        ("postgres://u%40x:p%3A%2F%3F%23@db/na%20me", {"USER": "u@x", "PASSWORD": "p:/?#", "NAME": "na me"}),
        ("postgres://u:p@db/name?sslmode=require", {"OPTIONS": {"sslmode": "require"}}),
        ("postgres://u@/name?host=/run/postgresql", {"HOST": "/run/postgresql", "USER": "u"}),
        ("postgres://u@%2Frun%2FPostgres:5433/name", {"HOST": "/run/Postgres", "PORT": "5433"}),
        ("postgres://u@[::1]:5433/name", {"HOST": "::1", "PORT": "5433"}),
        ("sqlite:///srv/db.sqlite3", {"ENGINE": "django.db.backends.sqlite3", "NAME": "/srv/db.sqlite3"}),
    ],
)
def test_a_database_url_is_read_as_it_is_written_everywhere(url: str, expected: dict[str, Any]) -> None:
    entry = from_url(url)
    assert {name: entry.get(name) for name in expected} == expected


def test_options_are_left_out_where_there_are_none() -> None:
    assert "OPTIONS" not in from_url("postgres://u@/name?host=/run/postgresql")


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "redis://u:hunter2@db/name",
        "postgres://u:hunter2/x@db/name",
        "postgres://u:x?hunter2@db/name",
        "postgres://u:12#hunter2@db/name",
        "postgres://u:p@db:hunter2/name",
        "postgres://u:hunter2@[db/name",
        "postgres://u:hunter2@[db]/name",
        "postgres://u:hunter2@d℀b/name",
    ],
)
def test_an_error_in_a_database_url_does_not_repeat_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_url(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_projects_own_session_engine_is_kept_with_all_that_belongs_to_it(stand: Stand) -> None:
    own = """
SESSION_ENGINE = "mini.sessions"
SESSION_CACHE_ALIAS = "mine"
SESSION_FILE_PATH = "/var/mine"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
"""
    found = show(stand, own, sessions={"engine": "project"})
    assert (found["SESSION_ENGINE"], found["SESSION_CACHE_ALIAS"]) == ("mini.sessions", "mine")
    assert found["SESSION_FILE_PATH"] == "/var/mine"
    assert list(found["CACHES"]) == ["default"]
