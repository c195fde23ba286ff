"""The policy pack as the engine asks it: how that is told, what it refuses, and why it could not be asked."""

from __future__ import annotations

import importlib.util
import re
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cluster.errors import CommandError
from cluster.plan.judged import disabled_rules
from platforms.pulumi.interpreters import works
from platforms.pulumi.programs import SDK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cluster.config import ClusterConfig
    from platforms.base import Voice

#: The pack, whatever directory Pulumi runs in.
PACK = Path(__file__).resolve().parents[2] / "policy"

#: What Pulumi reads of a pack first.
MANIFEST = "PulumiPolicy.yaml"

#: The level of what it refuses.
MANDATORY = "mandatory"

#: What Pulumi says where the pack, or what starts it, is missing or fails.
NOT_RUN = re.compile(
    r"failed to (?:run (?:policy|remediation)|get analyzer info): |policy pack.* (?:not started|failed to start)"
    r"|policy pack not found|could not locate an analyzer|pulumi-analyzer-policy|failed to load Pulumi policy project"
    r"|could not start policy pack"
)

#: The last line of what Python says of an error.
RAISED = re.compile(r"^[ \t]*(?P<kind>\w*(?:Error|Exception)): (?P<words>.+)$", re.MULTILINE)


@dataclass(kw_only=True)
class Policed:
    """What the pack said.

    refused: a line for each breach: its rule, the resource and how to mend it. unjudged: what it could not tell yet.
    """

    refused: list[str] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)

    def take(self, event: Mapping[str, Any]) -> None:
        """Take one `policyEvent`."""
        rule, level = event["policyName"], event.get("enforcementLevel")
        first, _, rest = str(event["message"]).strip().partition("\n")
        lines = self.refused if level == MANDATORY else self.unjudged
        line = f"policy {rule}: {' '.join((rest or first).split())}"
        if line not in lines:
            lines.append(line)


def tell_disabled(config: ClusterConfig, voice: Voice) -> None:
    """Say which rules the stack file switches off, and why."""
    for line in disabled_rules(config):
        voice.say(f"rule of the policy that is disabled: {line}")


@contextmanager
def asking(*, policed: bool = True, interpreter: Callable[[Path], Path] | None = None) -> Iterator[list[str]]:
    """Yield the words by which the engine asks the pack of every resource, none where it is not to be asked.

    It is run by the Python that runs this: where a pack names an environment that is not there, Pulumi waits for ever.
    interpreter: writes an environment below a directory whose Python is quicker. CommandError where what the pack is
    made of is missing here.
    """
    if not policed:
        yield []
        return
    if importlib.util.find_spec(SDK) is None:
        raise CommandError(f"the policy can't be asked: Python's package {SDK} is missing here; `make up` installs it")
    manifest = yaml.safe_load((PACK / MANIFEST).read_text(encoding="utf-8"))
    own = {"virtualenv": sys.prefix} if sys.prefix != sys.base_prefix else {}
    with tempfile.TemporaryDirectory() as directory:
        if interpreter is not None and works(quicker := interpreter(Path(directory) / "python")):
            own = {"virtualenv": str(quicker)}
        manifest["runtime"] = {"name": "python", "options": own}
        (Path(directory) / MANIFEST).write_text(yaml.safe_dump(manifest), encoding="utf-8")
        main = f"import runpy\nrunpy.run_path({str(PACK)!r}, run_name='__main__')\n"
        (Path(directory) / "__main__.py").write_text(main, encoding="utf-8")
        yield ["--policy-pack", directory]


def not_run(words: str) -> str | None:
    """Return in one line why the engine could not ask the pack; None where Pulumi said something else."""
    all_found = list(NOT_RUN.finditer(words))
    if not all_found:
        return None
    raised = list(RAISED.finditer(words))
    if raised:
        why, mend = f"{raised[-1]['kind']}: {raised[-1]['words'].strip()}", f"that is a fault of {PACK.name}/ itself"
    else:
        line = words[words.rfind("\n", 0, all_found[-1].start()) + 1 :].partition("\n")[0]
        why, mend = re.sub(r"^\s*\d+\) ", "", line).strip(), "what runs policies comes with Pulumi's own installer"
    return f"the policy can't be asked: {why}; {mend}"
