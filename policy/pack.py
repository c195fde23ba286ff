"""The rules as policies of Pulumi's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pulumi_policy import EnforcementLevel, Policy, PolicyPack, ResourceValidationPolicy, StackValidationPolicy
from pulumi_policy.deserialize import serialize_properties
from pulumi_policy.proxy import UNKNOWN_STRING_VALUE, UnknownValueError

from cluster.policies import TOLD, PolicyRule
from policy.resources import Resource, Unknown
from policy.rules import OF_INPUTS, disabled, site_of, violations

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from pulumi_policy import ReportViolation, ResourceValidationArgs, StackValidationArgs

#: The name of the pack, and of what only looks at inputs before the rules do.
PACK, READER = "django-cluster", "inputs"


class Reader:
    """Keeps inputs as they go over the wire.

    A rule of pulumi_policy's gets secrets as if they were none; only what may change inputs can tell them apart. This
    changes nothing.
    """

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    def read(self, args: ResourceValidationArgs) -> None:
        """Keep the inputs of a resource, which the rules are asked of next."""
        self.seen[args.urn] = serialize_properties(args.props)

    def resource(self, args: ResourceValidationArgs) -> Resource:
        """Return a resource with its marks."""
        options = args.opts
        return Resource(
            urn=args.urn, inputs=self.seen[args.urn], parent=options.parent or "", protect=bool(options.protect)
        )


class Pack:
    """The rules for one run. config: the configuration of the program's stack, by whole keys, secrets in plain."""

    def __init__(self, config: Mapping[str, str]) -> None:
        self.site = site_of(config)
        self.off = disabled(config)
        self.reader = Reader()

    def policies(self) -> list[Policy]:
        """Return the reader, and a policy for each rule."""
        reader = ResourceValidationPolicy(
            READER,
            "Reads what the rules look at, and changes nothing.",
            remediate=self.reader.read,
            enforcement_level=EnforcementLevel.REMEDIATE,
        )
        return [reader, *(self._policy(rule) for rule in PolicyRule)]

    def _policy(self, rule: PolicyRule) -> Policy:
        level = EnforcementLevel.DISABLED if rule in self.off else EnforcementLevel.MANDATORY
        summary = TOLD[rule].summary
        if rule in OF_INPUTS:
            return ResourceValidationPolicy(
                rule.value, summary, validate=self._of_inputs(rule), enforcement_level=level
            )
        return StackValidationPolicy(rule.value, summary, validate=self._of_outputs(rule), enforcement_level=level)

    def _of_inputs(self, rule: PolicyRule) -> Callable[[ResourceValidationArgs, ReportViolation], None]:
        def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
            self._check(rule, self.reader.resource(args), report)

        return validate

    def _of_outputs(self, rule: PolicyRule) -> Callable[[StackValidationArgs, ReportViolation], None]:
        def validate(args: StackValidationArgs, report: ReportViolation) -> None:
            for one in args.resources:
                self._check(rule, Resource(urn=one.urn, inputs=serialize_properties(one.props)), report)

        return validate

    def _check(self, rule: PolicyRule, resource: Resource, report: ReportViolation) -> None:
        try:
            for line in violations(rule, resource, self.site):
                report(line, resource.urn)
        except Unknown:
            raise UnknownValueError(UNKNOWN_STRING_VALUE, [resource.words]) from None


def serve(config: Mapping[str, str]) -> None:
    """Answer the engine, for as long as it asks."""
    PolicyPack(PACK, policies=Pack(config).policies())
