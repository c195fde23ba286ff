"""The keys of a stack file whose values are secrets: what each is for, and who gives it."""

from __future__ import annotations

from cluster_runtime.config import SECRET_NAMES

#: What keys of a stack file begin with, and secrets of the site that is its program's own.
OWN = "cluster"

#: Keys whose values are secrets; no message repeats them.
SECRET_KEYS = SECRET_NAMES

#: Where keys are kept aside that a rotation has dropped.
DROPPED_KEYS = "dropped_secret_keys"

#: How far a rotation is, of secret_key and of hosts_key.
ROTATION, HOSTS_ROTATION = "secret_key_rotation", "hosts_key_rotation"

#: The stack's own authority.
AUTHORITY = "tls_authority"

#: The key of its account with an authority, by ACME.
ACCOUNT = "acme_account"

#: The users for whom nginx asks.
USERS = "auth_basic_users"

#: What binds that account to somebody whom the authority knows.
EAB_KEY = "acme_eab_key"

#: What the certificates come from by which a stack's hosts know each other.
HOSTS_KEY = "hosts_key"

#: What hosts believe beside what comes from that, while it is changed.
HOSTS_KEY_FALLBACKS = "hosts_key_fallbacks"

#: Secrets that no release holds.
OWN_KEYS = (
    *(DROPPED_KEYS, ROTATION, HOSTS_ROTATION),
    *(AUTHORITY, ACCOUNT, EAB_KEY, USERS),
    *(HOSTS_KEY, HOSTS_KEY_FALLBACKS),
)

#: Secrets that a person gives.
GIVEN_KEYS = (*SECRET_KEYS, USERS, EAB_KEY)
