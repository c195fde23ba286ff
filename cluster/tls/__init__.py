"""Certificates of a site, and checks of how it is reached by TLS."""
