import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "dev-key"
DEBUG = True
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "orders",
]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware", "django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
TIME_ZONE = "UTC"
USE_TZ = True

#: One line for each start and each end of a job: kept outside the releases (app.shared).
JOURNAL = BASE_DIR / "journal" / "jobs.log"

CELERY_BROKER_URL = os.environ.get("CLUSTER_BROKER_URL", "redis://localhost:6379/0")
CELERY_TASK_IGNORE_RESULT = True
# A worker takes no more than it works on: what it holds when it is killed is the least there can be.
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
# What a killed worker held is somebody else's after this time; the longest job takes 3 s. Celery's own is an hour.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 20,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}
# A broker that is started again is waited for, however long it takes.
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
