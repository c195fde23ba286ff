"""Clients that ask side by side until they are stopped, each a thread of its own."""

from __future__ import annotations

import ssl
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from tests.jobs import until

if TYPE_CHECKING:
    from collections.abc import Callable

#: What httpx is to trust where nothing is asked by https: by itself each client reads all authorities, for 30 ms.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

#: Seconds of a client between an answer and its next request. A reload that takes no care closes connections at rest as
#: the next request comes: a client that never rests meets it less often, and a dozen of them take all processor time.
PAUSE = 0.05

#: Seconds in which what is waited for comes on the busiest machine.
LATEST = 120.0


class Clients(ABC):
    """A number of clients, as a context manager; `failed` has a line for each request that did, and is under `lock`.

    patience: seconds in which each has to end once it is stopped. pause: seconds for which each rests.
    """

    def __init__(self, count: int, patience: float, pause: float = PAUSE) -> None:
        self.patience, self.pause = patience, pause
        self.stopped = threading.Event()
        self.failed: list[str] = []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._counted, args=(number,), daemon=True) for number in range(count)]

    @abstractmethod
    def client(self, number: int) -> None:
        """Ask until `stopped` is set."""

    def rest(self) -> None:
        """Ask nothing for a moment."""
        self.stopped.wait(self.pause)

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Return once something holds, or a request has failed; AssertionError, with what was counted, else."""
        until(lambda: bool(self.failed) or holds(), LATEST, lambda: self)

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(self.patience)
        assert not any(thread.is_alive() for thread in self.threads), "a client hangs"

    def _counted(self, number: int) -> None:
        try:
            self.client(number)
        except BaseException as error:
            with self.lock:
                self.failed.append(f"client {number} ended: {type(error).__name__}: {error}")
            raise
