"""Lints: stack files that are valid, but unwise or refused later. Each has an id, why, and how to mend it."""

from cluster.lint.finding import Facts, Finding, Severity
from cluster.lint.rules import RULES, lint

__all__ = ["RULES", "Facts", "Finding", "Severity", "lint"]
