"""gunicorn's configuration for an instance (its settings by their documented names).

A setting that the project's version of gunicorn does not know yet is passed over by it.
"""

from __future__ import annotations

import os
from typing import Any

from cluster_runtime import preload
from cluster_runtime.activity import announce_boot
from cluster_runtime.config import INSTANCE_VARIABLE, SOCKET_VARIABLE, RuntimeConfig
from cluster_runtime.loading import loading
from cluster_runtime.supervision import die_with_parent

_config = RuntimeConfig.from_environment()
_environment, _open = dict(os.environ), preload.descriptors()

bind = f"unix:{os.environ[SOCKET_VARIABLE]}"
umask = 0o007  # nginx's user reaches the socket by its group; gunicorn's default lets everybody in
workers = _config.workers
threads = _config.threads
worker_class = "gthread" if _config.interface == "wsgi" else "uvicorn_worker.UvicornWorker"
chdir = _config.project
proc_name = f"{os.environ[INSTANCE_VARIABLE]}-{_config.release}"
graceful_timeout = int(_config.graceful_timeout)
# gunicorn's own watch over its workers; with gthread it watches the main loop, not the requests.
timeout = max(10, int(_config.health.retries * (_config.health.interval + _config.health.timeout)))
# nginx keeps its connections for a quarter of a second (cluster.services.UPSTREAM_CONNECTION_AGE); the longer one must
# be here.
keepalive = 75
# As long a line as nginx takes (one of its large_client_header_buffers); gunicorn's default is half of it.
limit_request_line = 8190
forwarded_allow_ips = "*"  # the socket is nginx's alone
control_socket_disable = True  # by default all instances would share one in the home directory
accesslog = None
errorlog = "-"
loglevel = "warning"
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - a heartbeat, not on a disk


#: The exit statuses by which a worker says that it can't boot. gunicorn's own, 3 and 4, are those that a request of the
#: project's may end its worker with (`sys.exit(3)`), and gunicorn would end itself then, and all workers with it.
BOOT_ERROR, LOAD_ERROR = 241, 242


def on_starting(server: Any) -> None:
    """Load the project before workers are forked, where that is safe."""
    arbiter = type(server)  # a worker of uvicorn's reads them there
    arbiter.WORKER_BOOT_ERROR, arbiter.APP_LOAD_ERROR = BOOT_ERROR, LOAD_ERROR
    if not _config.preload or os.environ.get(preload.VARIABLE) == preload.NO:
        return
    with loading():  # no worker searches for garbage what is its parent's, at its end least of all (0.2 s each)
        reason = preload.load(f"cluster_runtime.{_config.interface}", _open)
    if reason is not None:
        preload.start_again(_environment, reason)


def post_fork(_server: Any, _worker: Any) -> None:
    """Let no worker outlive gunicorn: a stopped or stuck one would never notice that its parent is gone."""
    die_with_parent()
    announce_boot()


def post_worker_init(worker: Any) -> None:
    """Let the worker tell that it lives, and that it is to be replaced (max_requests) while it ends its last requests.

    The thread that does so would not outlive a fork.
    """
    worker.wsgi.activity.is_leaving = lambda: not worker.alive
    worker.wsgi.activity.start_beating()
