"""How the engine is told to ask the policy, what it says comes to, and what is said where it can't be asked."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from pulumi.runtime.proto import analyzer_pb2
from pulumi_policy import EnforcementLevel, ResourceValidationPolicy
from pulumi_policy.policy import _PolicyAnalyzerServicer

from cluster.errors import CommandError
from cluster.plan.planned import Planned
from cluster.plan.shown import markdown, text
from cluster.policies import PolicyRule
from platforms.docker.failures import refused_by
from platforms.pulumi import policing
from platforms.pulumi.engine import Changes, PolicyError, Pulumi, PulumiError
from platforms.pulumi.policing import Policed, asking, not_run
from platforms.pulumi.programs import SDK
from policy.pack import PACK, READER, Pack
from tests.unit.test_policy import command, container, secret

if TYPE_CHECKING:
    from policy.resources import Resource

ROOT = Path(__file__).resolve().parents[2]

SECRET_KEY = "a-secret-key-of-some-length"


# --- the pack, as the engine asks it


def servicer(**policy: Any) -> Any:
    config = {"cluster:secret_key": SECRET_KEY, "cluster:policy": json.dumps(policy)}
    policies = Pack(config).policies()
    return _PolicyAnalyzerServicer(PACK, "1", policies, EnforcementLevel.MANDATORY)


def asked(pack: Any, resource: Resource) -> list[Any]:
    """Return what the pack says of a resource, as the engine asks: first what would mend it, and then what is wrong."""
    properties = ParseDict(dict(resource.inputs), Struct())
    options = analyzer_pb2.AnalyzerResourceOptions(parent=resource.parent, protect=resource.protect)
    keys = {"urn": resource.urn, "type": resource.type, "name": "x", "properties": properties, "options": options}
    mended = pack.Remediate(analyzer_pb2.AnalyzeRequest(**keys), None)
    assert not mended.remediations, "it changes what is made"
    return list(pack.Analyze(analyzer_pb2.AnalyzeRequest(**keys), None).diagnostics)


def test_a_secret_is_told_from_a_plain_text_by_its_mark_alone() -> None:
    pack = servicer()
    assert asked(pack, command(stdin=secret(SECRET_KEY))) == []
    (found,) = asked(pack, command(stdin=SECRET_KEY))
    assert (found.policyName, found.enforcementLevel) == ("plain-secret", analyzer_pb2.MANDATORY)
    assert "command step has the secret cluster:secret_key in plain, in stdin." in found.message
    assert SECRET_KEY not in found.message


def test_a_rule_that_is_disabled_says_nothing_and_the_others_do() -> None:
    published = container(ports=[{"internal": 11211}])
    assert [one.policyName for one in asked(servicer(), published)] == ["published-ports", "reachable-store"]
    off = servicer(disable=[{"rule": "published-ports", "reason": "a test"}])
    assert [one.policyName for one in asked(off, published)] == ["reachable-store"]


def test_what_is_not_known_yet_is_told_and_refuses_nothing() -> None:
    (found,) = asked(servicer(), container(user="04da6b54-80e4-46f7-96ec-b56ff0331ba9"))
    assert (found.policyName, found.enforcementLevel) == ("privileged", analyzer_pb2.ADVISORY)


def test_the_pool_says_how_many_serve_once_all_is_planned() -> None:
    properties = ParseDict({"servers": [{"name": "app1"}, {"name": "app2", "down": True}]}, Struct())
    one = analyzer_pb2.AnalyzerResource(
        urn="urn:pulumi:a::b::cluster:index:UpstreamPool::upstream", name="upstream", properties=properties
    )
    asks = analyzer_pb2.AnalyzeStackRequest(resources=[one])
    assert [found.policyName for found in servicer(production=True).AnalyzeStack(asks, None).diagnostics] == [
        "live-instances"
    ]
    assert not servicer().AnalyzeStack(asks, None).diagnostics


def test_each_rule_is_one_policy_of_its_name() -> None:
    first, *others = Pack({}).policies()
    assert isinstance(first, ResourceValidationPolicy)
    assert (first.name, first.enforcement_level) == (READER, EnforcementLevel.REMEDIATE)
    assert [one.name for one in others] == [rule.value for rule in PolicyRule]
    assert {one.enforcement_level for one in others} == {EnforcementLevel.MANDATORY}


# --- what the engine says


def event(rule: str, message: str, level: str = "mandatory") -> dict[str, Any]:
    return {"policyName": rule, "message": message, "enforcementLevel": level, "resourceUrn": "urn"}


def test_a_breach_is_a_line_with_its_rule_and_comes_once() -> None:
    policed = Policed()
    for _ in range(2):
        policed.take(event("debug", "Nothing is started with DEBUG.\ncontainer app1 has\n envs.DEBUG. Remove it.\n"))
    policed.take(event("tls", "can't run policy 'tls': not known", "advisory"))
    assert policed.refused == ["policy debug: container app1 has envs.DEBUG. Remove it."]
    assert policed.unjudged == ["policy tls: can't run policy 'tls': not known"]


PROGRAM = """#!/bin/sh
# Stands for Pulumi: says what `said` holds, and writes its events.
for last do case $1 in --event-log) cat {root}/events >"$2";; --policy-pack) cp -r "$2" {root}/pack;; esac; shift; done
cat {root}/said
exit {status}
"""


def engine(root: Path, status: int, *events: dict[str, Any], said: str = "") -> Pulumi:
    (root / "events").write_text("".join(json.dumps({"policyEvent": one}) + "\n" for one in events))
    (root / "said").write_text(said)
    program = root / "pulumi"
    program.write_text(PROGRAM.format(root=root, status=status))
    program.chmod(0o755)
    found = Pulumi.__new__(Pulumi)
    found.program = None
    found.root, found.stack, found.command, found.say = root, "dev", str(program), print
    found.passphrase = root / "passphrase"
    return found


def test_a_preview_asks_the_policy_and_is_refused_with_all_its_lines(tmp_path: Path) -> None:
    breaches = [event("debug", "D.\ncontainer app1 is. Mend it."), event("tls", "T.\ncommand x is. Mend it.")]
    with pytest.raises(PolicyError) as raised:
        engine(tmp_path, 255, *breaches, said="error: preview failed\n").preview(lambda _: None)
    lines = ["policy debug: container app1 is. Mend it.", "policy tls: command x is. Mend it."]
    assert str(raised.value).splitlines() == lines
    assert refused_by(None, raised.value) == lines  # type: ignore[arg-type]
    manifest = yaml.safe_load((tmp_path / "pack" / "PulumiPolicy.yaml").read_text())
    assert manifest["runtime"]["options"] == {"virtualenv": sys.prefix}
    assert str(ROOT / "policy") in (tmp_path / "pack" / "__main__.py").read_text()


def test_an_update_asks_only_where_the_preview_could_not_tell(tmp_path: Path) -> None:
    unsure = event("tls", "can't be told", "advisory")
    changes = engine(tmp_path, 0, unsure).preview(lambda _: None)
    assert changes == Changes(unjudged=("policy tls: can't be told",))
    for policed in (False, True):
        (tmp_path / str(policed)).mkdir()
        engine(tmp_path / str(policed), 0).up(lambda _: None, policed=policed)
        assert (tmp_path / str(policed) / "pack").exists() is policed


def test_what_else_fails_is_no_refusal_of_the_policy_s(tmp_path: Path) -> None:
    with pytest.raises(PulumiError, match=r"^port is taken$") as raised:
        engine(tmp_path, 255, said="error: port is taken\n").preview(lambda _: None)
    assert not isinstance(raised.value, PolicyError)


MISSING = """could not locate an analyzer capable of running the policy pack "/p": 2 errors occurred:
    1) no language plugin
    2) no analyzer plugin 'pulumi-analyzer-policy-python' found in the workspace
"""

NO_START = """Traceback (most recent call last):
    File x
    ImportError: no grpc

policy pack not started: could not read policy pack port: io: read/write on closed pipe
"""

BROKEN = """failed to run policy: Error validating resource with policy 'debug':
Traceback:
  File x
ValueError: x
"""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            MISSING,
            "no analyzer plugin 'pulumi-analyzer-policy-python' found in the workspace; what runs policies comes",
        ),
        (NO_START, "ImportError: no grpc; that is a fault of policy/ itself"),
        (BROKEN, "ValueError: x; that is a fault of policy/ itself"),
    ],
)
def test_what_can_t_be_asked_is_said_in_one_line(tmp_path: Path, said: str, words: str) -> None:
    line = not_run(said)
    assert line is not None
    assert line.startswith(f"the policy can't be asked: {words}")
    assert "\n" not in line
    with pytest.raises(PolicyError, match=r"^the policy can't be asked: "):
        engine(tmp_path, 255, said=said).preview(lambda _: None)
    assert not_run("error: app1: the policy of the port is taken") is None


def test_an_environment_without_pulumi_policy_is_told_before_pulumi_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pulumi waits for ever for a pack whose environment is not there."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == SDK else "there")
    with pytest.raises(CommandError, match=r"pulumi_policy is missing here; `make up` installs it$"), asking():
        pass
    with asking(policed=False) as words:
        assert words == []


def test_the_pack_for_who_says_pulumi_preview_himself_is_run_by_the_tool_s_environment() -> None:
    manifest = yaml.safe_load((ROOT / "policy" / policing.MANIFEST).read_text())
    assert manifest["runtime"] == {"name": "python", "options": {"virtualenv": "../.venv"}}


# --- what a person sees


@pytest.mark.parametrize("changes", [False, True])
def test_a_disabled_rule_is_shown_with_its_reason_whatever_changes(changes: bool) -> None:
    planned = Planned(stack="dev", changes=changes, disabled=("debug: we `look` for a leak",))
    assert "rules of the policy that are disabled: debug: we `look` for a leak" in text(planned)
    assert "``debug: we `look` for a leak``" in "\n".join(markdown(planned))
