"""What runs on a host, as root: sent there with each command, and installed nowhere.

It needs Python 3.11 and nothing that is not in its library, but for a few modules of the runtime that are sent with it.
"""
