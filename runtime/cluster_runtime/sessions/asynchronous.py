"""Django's asynchronous methods of a session store, by way of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

if TYPE_CHECKING:
    from django.contrib.sessions.backends.base import SessionBase

    class Base(SessionBase):
        """What Django's session stores have beside what their types tell."""

        _session_cache: dict[str, Any]

        def _get_new_session_key(self) -> str: ...
        def _get_session(self, *, no_load: bool = False) -> dict[str, Any]: ...
        def _get_session_from_db(self) -> Any: ...
else:
    Base = object


class Asynchronous(Base):
    """Each asynchronous method of a store does what the other one does, in a thread."""

    async def aload(self) -> dict[str, Any]:
        """See load()."""
        return await sync_to_async(self.load)()

    async def acreate(self) -> None:
        """See create()."""
        await sync_to_async(self.create)()

    async def asave(self, must_create: bool = False) -> None:
        """See save()."""
        await sync_to_async(self.save)(must_create)

    async def aexists(self, session_key: str) -> bool:
        """See exists()."""
        return await sync_to_async(self.exists)(session_key)

    async def adelete(self, session_key: str | None = None) -> None:
        """See delete()."""
        await sync_to_async(self.delete)(session_key)

    async def acycle_key(self) -> None:
        """See cycle_key()."""
        await sync_to_async(self.cycle_key)()

    async def aflush(self) -> None:
        """See flush()."""
        await sync_to_async(self.flush)()
