"""A proof: an instance that is started only to show that its release is fit to serve, and takes no name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from cluster_runtime.checks import Unhealthy

#: The exit status of a proof by which a healthy release must not serve.
UNFIT = 4


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What a proof looks at.

    verdict: where it writes why the release must not serve. former: where an instance of the serving one listens.
    """

    verdict: Path
    former: Path | None
    pages: bool

    def refuse(self, error: Unhealthy) -> None:
        """Write down what the project raised, which kept the release from getting healthy."""
        if error.failure:
            self.verdict.write_text(f"{error}\n{error.failure}\n", encoding="utf-8")

    def judge(self, socket: Path) -> int:
        """Look at the pages of the release that listens at `socket`; return the exit status."""
        from cluster_runtime.gate import judge  # noqa: PLC0415 - an instance that serves stays small

        lines = judge(socket, self.former) if self.pages else []
        if lines:
            self.verdict.write_text("\n".join([*lines, ""]), encoding="utf-8")
        return UNFIT if lines else 0
