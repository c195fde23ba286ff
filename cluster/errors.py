"""The failures that a user can mend: each is told by its text alone, and anything else is a mistake of this program."""

from __future__ import annotations


class ClusterError(Exception):
    """Something can't be as the stack file or the command line says; the text says why, and what to do."""


class CommandError(ClusterError):
    """A command can't do what it was asked."""
