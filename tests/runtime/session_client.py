"""A process that keeps sessions under the overlay: a JSON command a line in, a JSON answer a line out."""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from typing import Any

from cluster_runtime.config import RuntimeConfig
from cluster_runtime.django_setup import prepare


def main() -> None:
    prepare(RuntimeConfig.from_environment())
    import django  # noqa: PLC0415 - after the environment

    django.setup()
    from django.conf import settings  # noqa: PLC0415

    store = import_module(settings.SESSION_ENGINE).SessionStore
    for line in sys.stdin:
        command = json.loads(line)
        started = time.monotonic()
        try:
            result = do(store, **command)
            answer = {"result": result, "seconds": time.monotonic() - started}
        except Exception as error:  # noqa: BLE001 - what it was is the answer
            answer = {"error": f"{type(error).__name__}: {error}", "seconds": time.monotonic() - started}
        print(json.dumps(answer), flush=True)


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
    main()
