"""The cluster tool: everything that needs no Pulumi."""
