"""Certificates by ACME (RFC 8555): ordered, kept and renewed beside each nginx.

It stands alone but for `cluster_runtime`: on some platforms it runs in a container without the rest. The commands read
what it says of itself (`kept`).
"""

#: Where an authority looks for its answer (RFC 8555, section 8.3).
CHALLENGES = "/.well-known/acme-challenge/"
