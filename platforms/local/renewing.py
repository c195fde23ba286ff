"""The site's certificate by ACME on this machine: what keeps it, and what is said of it.

`python -m platforms.local.renewing WANTED STATE`: keeps it, below Supervisor, and lets nginx load a new one.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.acme.kept import Store, new_key
from cluster.acme.status import await_first
from cluster.config.models import ACCOUNT, EAB_KEY
from cluster.errors import ClusterError
from cluster.machine.owner import find_owner
from cluster.render.acme import LOCATION
from cluster.stack.secrets import write_secret
from cluster.tls.certificates import names_of
from cluster.tls.renewing import wanted
from cluster_runtime.supervision import die_with_parent
from platforms.local.nginx import Nginx, told_on
from platforms.local.paths import LocalPaths
from platforms.local.site import UpError
from platforms.local.supervisor import Supervisor
from platforms.local.supervisor_files import Program

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.services import Service
    from platforms.local.site import Site

#: Seconds until nginx is told again of a certificate that it did not take.
TELL_AGAIN = 60.0


class Renewing:
    """The certificate of a site, and its renewer."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.store = Store(site.paths.acme)

    @property
    def is_wanted(self) -> bool:
        """Whether the site's certificate comes by ACME."""
        return self.site.config.site.acme is not None

    @property
    def account(self) -> Path:
        """The file of the account's key."""
        return self.site.paths.secrets / ACCOUNT

    @property
    def binding(self) -> Path:
        """The file of what binds that account to somebody whom the authority knows."""
        return self.site.paths.secrets / EAB_KEY

    def ensure_account(self) -> None:
        """Make the key of the stack's account, where it has none."""
        if self.is_wanted and not self.account.exists():
            write_secret(self.account, new_key())
        given = self.site.config.acme_eab_key
        if self.is_wanted and given is not None:
            write_secret(self.binding, given.get_secret_value())

    def prepare(self) -> None:
        """See that nginx can start. UpError where the account's key, or what binds it, can't be used."""
        acme = self.site.config.site.acme
        if acme is None:
            return
        from cluster.acme.account import check_binding, thumbprint_of  # noqa: PLC0415 - as above

        try:
            thumbprint = thumbprint_of(self.account.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            raise UpError(f"{self.account}: the key of the account by ACME: {error}") from None
        try:
            if acme.eab:
                check_binding(self.binding.read_text(encoding="utf-8").strip())
        except (OSError, ValueError) as error:
            raise UpError(f"{self.binding}: the key of site.tls.acme.eab: {error}") from None
        self.site.owner.hold(self.site.paths.acme, 0o700)
        self.store.prepare(names_of(self.site.config), thumbprint)

    def program(self, service: Service) -> Program:
        """Return what Supervisor runs."""
        config, paths = self.site.config, self.site.paths
        acme = config.site.acme
        assert acme is not None  # noqa: S101 - whoever asks has one
        trusted = str(paths.root / (acme.directory_ca or ""))
        asked = ("127.0.0.1", config.site.listen)
        text = wanted(config, account=str(self.account), trusted=trusted, eab_key=str(self.binding), asked=asked)
        assert text is not None  # noqa: S101 - as above
        return Program(
            name=service.name,
            command=(sys.executable, "-P", "-m", __name__, text.text, str(paths.root), paths.stack),
            directory=str(paths.state),
            log=str(paths.logs / f"{service.name}.log"),
            priority=950,
            environment={"PYTHONPATH": os.pathsep.join(map(str, _roots())), "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def await_first(self) -> None:
        """Wait until the authority has given a certificate, or has said why not; what that is, is said."""
        if not self.is_wanted:
            return
        names = names_of(self.site.config)
        await_first(lambda: (self.store.said(), self.site.nginx.live_certificate()), self.site.say, names)


def _roots() -> list[Path]:
    """Return where this tool's packages lie."""
    root = Path(__file__).resolve().parents[2]
    return [root, root / "runtime"]


def load_new(paths: LocalPaths, store: Store) -> None:
    """Let nginx load a certificate that it has not read. NginxError, SupervisorError where it does not take it."""
    told = told_on(paths.nginx_socket, LOCATION)
    if told is None or told == store.told():
        return
    nginx = Nginx(paths, Supervisor(paths), find_owner(paths.state))
    with nginx.locked():
        if nginx.live_certificate() != store.told():
            nginx.reload(lambda: nginx.live_certificate() == store.told())


class Loading:
    """Lets nginx load what the renewer has put in place; `say` takes why it does not, and it is asked again later."""

    def __init__(self, paths: LocalPaths, store: Store, say: Callable[[str], None]) -> None:
        self.paths = paths
        self.store = store
        self.say = say
        self.refused = 0.0

    def look(self) -> None:
        """Load what is new. An end of the renewer for a full disk or a nginx that is gone would mend nothing."""
        if time.monotonic() < self.refused:
            return
        try:
            load_new(self.paths, self.store)
        except (ClusterError, OSError) as error:
            self.say(f"nginx has not loaded the certificate: {error}")
            self.refused = time.monotonic() + TELL_AGAIN


def main() -> None:
    """Keep a certificate until Supervisor ends."""
    from cluster.acme.renewer import Renewer, run, told_by  # noqa: PLC0415 - this process alone
    from cluster.acme.wanted import read_wanted  # noqa: PLC0415 - as above

    die_with_parent(signal.SIGTERM)
    text, root, stack = sys.argv[1:]
    paths, say, supervisor = LocalPaths(Path(root), stack), told_by("acme"), os.getppid()
    store = Store(paths.acme)
    loading = Loading(paths, store, say)

    def then() -> None:
        if os.getppid() != supervisor:
            sys.exit("Supervisor has ended")
        loading.look()

    run(Renewer(read_wanted(text), store, say), then)


if __name__ == "__main__":
    main()
