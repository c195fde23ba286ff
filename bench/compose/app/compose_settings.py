from example.settings import *  # type: ignore[import-untyped]  # noqa: F403

SECRET_KEY = "of a benchmark"
DEBUG = False
ALLOWED_HOSTS = ["*"]
STATIC_ROOT = "/srv/static"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "db",
        "NAME": "cluster",
        "USER": "cluster",
        "PASSWORD": "of a benchmark",
        "CONN_MAX_AGE": 600,
        "CONN_HEALTH_CHECKS": True,
    }
}
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": ["memcached1:11211", "memcached2:11211"],
    }
}
SESSION_ENGINE = "django.contrib.sessions.backends.cached_db"
