"""Processes that keep sessions under the overlay: a JSON command a line in, a JSON answer a line out.

`python -m tests.runtime.session_client DESCRIPTOR` imports of Django what needs no settings, which is most of what such
a process costs, and forks for each environment that it is sent, with the stream that the fork listens to.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import time
from importlib import import_module
from typing import Any, TextIO

from cluster_runtime.config import RuntimeConfig
from cluster_runtime.django_setup import prepare

#: What a process imports of Django that needs no settings.
EARLY = (
    *("django.core.management.commands.migrate", "django.db.backends.sqlite3.base", "django.db.migrations.executor"),
    *("django.contrib.sessions.backends.db", "django.contrib.sessions.backends.signed_cookies", "django.core.cache"),
)

#: Bytes of an environment.
MOST = 64 * 1024


def serve(control: socket.socket) -> None:
    """Fork for each environment that is sent with a stream, until nobody can send one any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a fork has ended
    while True:
        message, descriptors, _flags, _address = socket.recv_fds(control, MOST, 1)
        if not message:
            return
        with socket.socket(fileno=descriptors[0]) as connection:
            if os.fork() == 0:
                control.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.environ.clear()
                os.environ.update(json.loads(message))
                with connection.makefile("rw") as stream:
                    main(stream)
                sys.exit()


def main(stream: TextIO) -> None:
    """Tell the process id, and do what is said, a command after the other."""
    print(os.getpid(), file=stream, flush=True)
    prepare(RuntimeConfig.from_environment())
    import django  # noqa: PLC0415 - after the environment

    django.setup()
    from django.conf import settings  # noqa: PLC0415

    store = import_module(settings.SESSION_ENGINE).SessionStore
    for line in stream:
        command = json.loads(line)
        started = time.monotonic()
        try:
            result = do(store, **command)
            answer = {"result": result, "seconds": time.monotonic() - started}
        except Exception as error:  # noqa: BLE001 - what it was is the answer
            answer = {"error": f"{type(error).__name__}: {error}", "seconds": time.monotonic() - started}
        print(json.dumps(answer), file=stream, flush=True)


def do(store: Any, what: str, key: str | None = None, **values: Any) -> Any:  # noqa: C901, PLR0911, PLR0912 - one for each command
    """Do one command on the session `key`."""
    if what == "create":
        session = store()
        session.update(values)
        session.save()
        return session.session_key
    if what == "read":
        return dict(store(key).items())
    if what == "key":
        return store(key).session_key
    if what == "write":
        session = store(key)
        session.update(values)
        session.save()
        return session.session_key
    if what == "delete":
        return store(key).delete()
    if what == "age":
        session = store(key)
        session.set_expiry(values["seconds"])
        session.save()
        return session.session_key
    if what == "sabotage":
        from cluster_runtime.sessions import nodes  # noqa: PLC0415

        for name in ("distrust", "doubt"):
            setattr(nodes, name, lambda _path: None)
        return None
    if what == "clear":
        return store.clear_expired()
    if what == "delete rows":
        from django.contrib.sessions.models import Session  # noqa: PLC0415

        return Session.objects.filter(**({"session_key": key} if key else {})).delete()[0]
    if what == "deaf":
        from django.contrib.sessions.models import Session  # noqa: PLC0415
        from django.db.models.signals import post_delete  # noqa: PLC0415

        from cluster_runtime.sessions.rows import APP  # noqa: PLC0415

        return post_delete.disconnect(sender=Session, dispatch_uid=APP)
    if what == "one copy":
        from cluster_runtime.sessions import memcached  # noqa: PLC0415

        memcached.COPIES = 1
        return None
    if what == "migrate":
        from django.core.management import call_command  # noqa: PLC0415

        return call_command("migrate", verbosity=0)
    raise ValueError(what)


if __name__ == "__main__":
    for name in EARLY:
        import_module(name)
    gc.freeze()  # no fork searches for garbage what all have in common
    serve(socket.socket(fileno=int(sys.argv[1])))
