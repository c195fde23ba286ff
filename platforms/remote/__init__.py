"""Hosts that are reached by SSH: instances under systemd, and nginx as their distribution has it."""
