"""The settings overlay: the project's own settings, with what the stack file owns put over them.

Used as DJANGO_SETTINGS_MODULE; it needs CLUSTER_CONFIG. What is not named here stays the project's.
"""

from __future__ import annotations

import json
from typing import Any

from cluster_runtime import databases
from cluster_runtime.config import ConfigError, RuntimeConfig
from cluster_runtime.django_setup import import_settings
from cluster_runtime.sessions import apps_for, settings_for

_config = RuntimeConfig.from_environment()
_project = import_settings(_config)
globals().update({name: getattr(_project, name) for name in dir(_project) if name.isupper()})


def _of_project(name: str, default: Any) -> Any:
    return getattr(_project, name, default)


_secret_key = _config.secret("secret_key")
if not _secret_key:
    raise ConfigError(f"{_config.secret_file('secret_key')}: missing or empty")
SECRET_KEY = _secret_key
SECRET_KEY_FALLBACKS: list[str] = json.loads(_config.secret("secret_key_fallbacks") or "[]")
DEBUG = False
ALLOWED_HOSTS = list(_config.hosts)
CSRF_TRUSTED_ORIGINS = [*_of_project("CSRF_TRUSTED_ORIGINS", []), *_config.origins]

# nginx sets these headers on every request, over whatever a client sent.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
USE_X_FORWARDED_HOST = True
MIDDLEWARE = [
    "cluster_runtime.cookies.secure_cookies",
    *_of_project("MIDDLEWARE", []),
    "cluster_runtime.trial.answer_arrived",
]

if _config.static_root:
    STATIC_ROOT = _config.static_root

DATABASES = databases.all_of(_config, _of_project("DATABASES", {}))

for _name, _value in settings_for(_config.sessions, _of_project("CACHES", None)).items():
    globals()[_name] = _value

_apps = apps_for((_config.sessions.engine, _config.sessions.previous))
if _apps:
    INSTALLED_APPS = [*_of_project("INSTALLED_APPS", []), *_apps]

if not _of_project("LOGGING", None):
    # Without DEBUG Django tells errors by mail only; where the project says nothing of logging, the log has them too.
    LOGGING = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"stderr": {"class": "logging.StreamHandler"}},
        "loggers": {"django": {"handlers": ["stderr"], "level": "WARNING"}},
    }

_dynaconf = _of_project("DYNACONF", None)
if hasattr(_dynaconf, "populate_obj"):
    # It has put settings of its own into the place of Django's: what is decided here must be decided there.
    _own = {name: value for name, value in globals().items() if name.isupper()}
    _dynaconf.update({name: value for name, value in _own.items() if value is not _of_project(name, None)}, merge=False)
