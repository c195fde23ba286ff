import os

from example.settings import *  # type: ignore[import-untyped]  # noqa: F403

SECRET_KEY = "of a benchmark"
DEBUG = False
ALLOWED_HOSTS = ["*"]
STATIC_ROOT = "/srv/static"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ.get("DATABASE_HOST"),
        "NAME": "shop",
        "USER": "shop",
        "PASSWORD": os.environ.get("DATABASE_PASSWORD"),
        "CONN_MAX_AGE": 600,
        "CONN_HEALTH_CHECKS": True,
    }
}
