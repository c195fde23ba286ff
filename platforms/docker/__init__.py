"""Platform docker: what runs on one Docker engine, how it is made there, looked at, reached and repaired.

The commands need no Pulumi SDK, which takes a while to import; `resources`, `containers` and `images` are what the
program makes.
"""
