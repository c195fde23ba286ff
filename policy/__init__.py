"""The rules that the resources of a Pulumi platform keep to, as a policy pack of Pulumi's: docs/policy.md."""
