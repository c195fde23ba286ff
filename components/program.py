"""What a Pulumi program knows of its stack: the stack file, its secrets, the platform and the release."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pulumi

from cluster.config import load_stack
from cluster.config.models import ACCOUNT, AUTHORITY, EAB_KEY, GIVEN_KEYS, OWN, SECRET_KEYS, USERS
from cluster.errors import ClusterError
from cluster.release import asked_for, runtime_config
from cluster.render.users import UsersError, users_file
from cluster.services import refused_without
from cluster.sessions import Discard, Lasting, refusal, refused_hiding, refused_loss, refused_rollback
from cluster.stack.judge import judge
from cluster.stack.opened import Stack
from cluster.tls.certificates import CertificateError, certificate_of
from cluster.tls.renewing import account_of
from platforms import registry
from platforms.base import RELEASE_VARIABLE

if TYPE_CHECKING:
    from cluster.config import ClusterConfig
    from cluster.release import ReleaseSpec
    from cluster.tls.certificates import Certificate
    from cluster.tls.renewing import Account
    from cluster.topology import Topology
    from platforms.base import Ground, Resources


#: How a site of a program is called: it is a part of its images' names too.
SITE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

#: The longest name of a site.
SITE_LENGTH = 32

#: The sites that a program has opened, by what is at the root of its resources.
_opened: WeakKeyDictionary[pulumi.Resource, set[str | None]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Program:
    """One site of a program: what its stack file says, and where it stands on its platform.

    root: the directory that the stack file's paths are meant from. stack: the stack file's name. secrets: their values,
    in plain. site: its name among the sites of the program; None for the one that is the program's stack. authority:
    what signs the certificate of a site that signs its own. users: for whom nginx asks, as the secret names them.
    account: the key of its account by ACME. eab_key: what binds that to somebody whom the authority knows.
    """

    root: Path
    stack: str
    config: ClusterConfig
    secrets: dict[str, str]
    ground: Ground
    site: str | None = None
    authority: str = field(default="", repr=False)
    users: str = field(default="", repr=False)
    account: str = field(default="", repr=False)
    eab_key: str = field(default="", repr=False)

    def platform(self, topology: Topology) -> Resources:
        """Return the platform, with what runs on it now; RunError where it is away, or would lose sessions or data."""
        try:
            served = self.ground.served(topology)
            rollback, may = self._former(), Discard.of(self.config)
            refused = (
                refused_rollback(*rollback, served)
                or refused_hiding(*rollback, served)
                or refused_without(self.config, *rollback)
                if rollback
                else refusal(self.config, served, self.ground.sessions)
                or refused_loss(
                    served,
                    self._lasting(topology),
                    discard_sessions=may.sessions,
                    discard_data=may.data,
                )
            )
        except ClusterError as error:
            raise pulumi.RunError(str(error)) from None
        if refused:
            raise pulumi.RunError(refused)
        return self.ground.resources(
            pulumi.Output.secret(json.dumps(self.secrets, sort_keys=True)),
            self._certificate(),
            self._users(),
            self._account(),
        )

    def _lasting(self, topology: Topology) -> Lasting:
        """Return what sessions and data hang on in the release that the stack file asks for."""
        runtime = runtime_config(self.config, self.ground.paths(topology), "")
        found = Lasting.of(runtime["sessions"]["path"], runtime["database"], self.secrets)
        return replace(found, shared=frozenset(runtime["shared"]))

    def release(self, topology: Topology) -> ReleaseSpec:
        """Return the release that the stack file and the code ask for; RunError where it can't be made."""
        try:
            spec = asked_for(self.config, self.root, self.secrets, self.ground.digest(topology))
        except ClusterError as error:
            raise pulumi.RunError(str(error)) from None
        former = self._former()
        return replace(spec, digest=former[0]) if former else spec

    def _certificate(self) -> Certificate | None:
        """Return the site's certificate with its key; RunError where it can't be had."""
        tls = self.config.site.tls
        if tls is not None and tls.self_signed and not self.authority:
            space = self.site or OWN
            raise pulumi.RunError(f"{space}:{AUTHORITY}: missing; `cluster up` makes it")
        try:
            return certificate_of(self.config, self.root, self.authority, dt.datetime.now(dt.UTC))
        except CertificateError as error:
            raise pulumi.RunError(str(error)) from None

    def _account(self) -> Account | None:
        """Return the site's account by ACME, where its certificate comes so; RunError where it can't be had."""
        try:
            found = account_of(self.config, self.root, self.account, self.eab_key)
            if found is not None:
                from cluster.acme.account import thumbprint_of  # noqa: PLC0415 - few sites need it, and it takes time

                thumbprint_of(found.key)
                self._check_binding(found)
        except CertificateError as error:
            raise pulumi.RunError(str(error)) from None
        except ValueError as error:
            problem = str(error) if self.account else "missing; `cluster up` makes it"
            raise pulumi.RunError(f"{self.site or OWN}:{ACCOUNT}: {problem}") from None
        return found

    def _check_binding(self, account: Account) -> None:
        from cluster.acme.account import check_binding  # noqa: PLC0415 - as above

        if self.config.site.acme is not None and self.config.site.acme.eab:
            try:
                check_binding(account.eab_key)
            except ValueError as error:
                raise pulumi.RunError(f"{self.site or OWN}:{EAB_KEY}: {error}") from None

    def _users(self) -> str:
        """Return what nginx reads of the site's users; RunError where they can't be had."""
        try:
            return users_file(self.config, self.users)
        except UsersError as error:
            raise pulumi.RunError(re.sub("^", f"{self.site or OWN}:", str(error), flags=re.MULTILINE)) from None

    def _former(self) -> tuple[str, dict[str, Any]] | None:
        """Return the former release that is to serve again and its configuration file; RunError where it is gone."""
        former = os.environ.get(RELEASE_VARIABLE)
        if not former or self.site is not None:  # the commands go back in the program's own stack alone
            return None
        try:
            return former, self.ground.former(former)
        except OSError as error:
            words = f"{RELEASE_VARIABLE}: release {former} is not here: its build context is gone"
            raise pulumi.RunError(words) from error


def open_program(root: Path | str | None = None, stack: str | None = None, site: str | None = None) -> Program:
    """Read a stack file and its secrets, and judge them; RunError has a line for each problem.

    root: the directory that holds stacks/, and that the file's paths are meant from; the current one by default.
    stack: the stack file's name, as in stacks/Pulumi.<stack>.yaml; the Pulumi stack's by default.
    site: what this is called among the sites of the program (lower-case letters, digits and -), on the platform and in
    the configuration: its secrets are `<site>:secret_key` and so on. By default the stack file's name, and none for the
    Pulumi stack's own file: that is the site that the `cluster` command knows, and its secrets are `cluster:secret_key`
    and so on.
    """
    directory, name = Path(root or ".").resolve(), stack or pulumi.get_stack()
    called = site if site is not None or name == pulumi.get_stack() else name
    try:
        config = load_stack(directory, name)
    except ClusterError as error:
        raise pulumi.RunError(str(error)) from None
    return open_site(config, directory, name, called)


def open_site(config: ClusterConfig, root: Path, stack: str, site: str | None) -> Program:
    """Return a site of the program by what a stack file says; else as `open_program`."""
    _claim(site)
    space = site or OWN
    secrets = _secrets(space)
    users = pulumi.runtime.get_config(f"{space}:{USERS}") or ""
    eab_key = pulumi.runtime.get_config(f"{space}:{EAB_KEY}") or ""
    there = frozenset({*secrets, *([USERS] if users else []), *([EAB_KEY] if eab_key else [])})
    try:
        ground = registry.ground(Stack(root, stack, config), site)
        judge(config, ground.facts(config, there), warn=lambda line: pulumi.log.warn(_keyed(line, space)))
        secrets |= ground.made_secrets(config)
    except ClusterError as error:
        raise pulumi.RunError(_keyed(str(error), space)) from None
    authority = pulumi.runtime.get_config(f"{space}:{AUTHORITY}") or ""
    account = pulumi.runtime.get_config(f"{space}:{ACCOUNT}") or ""
    return Program(root, stack, config, secrets, ground, site, authority, users, account, eab_key)


def _claim(site: str | None) -> None:
    """See that a site's name is one, and no other site's of the program; RunError says what is wrong."""
    if site is not None and (site == OWN or len(site) > SITE_LENGTH or SITE.fullmatch(site) is None):
        raise pulumi.RunError(
            f"site: {site!r} is no name for one: lower-case letters, digits and -, beginning with a letter, "
            f"{SITE_LENGTH} at most, and not {OWN!r}"
        )
    root = pulumi.runtime.get_root_resource()
    claimed = set() if root is None else _opened.setdefault(root, set())
    if site in claimed:
        called = "are the program's stack itself" if site is None else f"are called {site!r}"
        raise pulumi.RunError(f"site: two of the program {called}: each needs a name of its own (`site`)")
    claimed.add(site)


def _keyed(text: str, space: str) -> str:
    """Return a text about the secrets of the program's own stack as one about those of a site."""
    return re.sub(rf"\b{OWN}:({'|'.join(GIVEN_KEYS)})\b", rf"{space}:\1", text)


def _secrets(space: str) -> dict[str, str]:
    """Return the values of a site's secrets: in plain, since the release's digest is made of them too."""
    found = {name: pulumi.runtime.get_config(f"{space}:{name}") for name in SECRET_KEYS}
    return {name: value for name, value in found.items() if value}
