"""Driving Pulumi's engine, whatever its resources run on."""
