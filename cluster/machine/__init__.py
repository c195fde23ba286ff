"""This machine, whatever platform runs a stack: its user for the project's code, packages, and what is free on it."""
