"""Pulumi's words as a person reads them."""

from __future__ import annotations

import re


def plain(text: str) -> str:
    """Return Pulumi's words without colours, addresses of source files and its own frame around them."""
    text = re.sub(r"<\{%[^%]*%\}>|\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"^\s*sdk-v2/\S+: sdk\.\S+: ", "", text)
    text = re.sub(r"^SDK \d{4}/\S+ \S+ (?:WARN|DEBUG) .*\n?", "", text, flags=re.MULTILINE)  # AWS's own log
    text = re.sub(r"^\s*(error|warning): ", "", text, flags=re.MULTILINE)
    text = re.sub(r'before hook "[^"\n]*" failed: ', "", text)
    text = re.sub(r"\d+ errors? occurred:\s*", "", text)
    text = re.sub(r"\* (?:creating|updating|deleting) urn:\S+?::(\w[\w-]*): ", r"\1: ", text)
    text = re.sub(r'exit status \d+: running "[^\n]*?":?\s*\n', "", text)
    text = re.sub(r"^\s*\* ", "", text, flags=re.MULTILINE)
    return text.strip()
