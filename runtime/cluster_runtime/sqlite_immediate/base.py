"""The backend: what OPTIONS means from Django 5.1 on, for an older one.

There is no option for it: in autocommit, which is Django's mode, sqlite3's `isolation_level` is None whatever OPTIONS
says, and `atomic` begins by a plain BEGIN of its own.
"""

from __future__ import annotations

from typing import Any

from django.db.backends.sqlite3 import base


class DatabaseWrapper(base.DatabaseWrapper):
    """Begins transactions in the mode that OPTIONS names, and connections with its commands."""

    transaction_mode = "DEFERRED"
    init_command = ""

    def get_connection_params(self) -> dict[str, Any]:
        """Return what sqlite3.connect takes; the two options that it does not know are kept here."""
        params: dict[str, Any] = super().get_connection_params()
        self.transaction_mode = params.pop("transaction_mode", None) or self.transaction_mode
        self.init_command = params.pop("init_command", self.init_command)
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Return a connection on which OPTIONS' commands have run."""
        connection = super().get_new_connection(conn_params)
        for command in filter(None, map(str.strip, self.init_command.split(";"))):
            connection.execute(command)
        return connection

    def _start_transaction_under_autocommit(self) -> None:
        self.cursor().execute(f"BEGIN {self.transaction_mode}")
