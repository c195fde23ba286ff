"""The paths of a stack on a host. All that is called after it is called `cluster-<stack>`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: nginx's user and its group, as the distribution has them.
NGINX_USER = "www-data"

#: Begins the name of a note that a directory which hosts share lacks what the project holds there itself.
UNSEEDED = ".unseeded-"

#: Of the distribution's nginx.
NGINX = Path("/etc/nginx")

#: What a host shows other hosts, and by what it knows them; in `HostPaths.shown`.
AUTHORITY, CERTIFICATE, KEY = "authority.pem", "certificate.pem", "certificate.key"

#: States of a unit that is there.
THERE = ("active", "activating", "deactivating", "reloading")

#: Of the units that a host's administrator makes.
UNITS = Path("/etc/systemd/system")


@dataclass(frozen=True)
class Guard:
    """What says who gets to a port: of `stack`, of `what`. table: nft's; rules: its file, which unit puts in place."""

    stack: str
    what: str
    table: str
    rules: Path
    unit: Path


@dataclass(frozen=True)
class HostPaths:
    """The paths of one stack on a host, below `root` (/ but in tests), and what units and the like are called."""

    stack: str
    root: Path = Path("/")

    @property
    def name(self) -> str:
        """What is called after the stack: its user, its units, its directories."""
        return f"cluster-{self.stack}"

    @property
    def code(self) -> Path:
        """Releases and environments of packages: root's, which the instances read."""
        return self.root / "srv" / "cluster" / self.stack

    @property
    def releases(self) -> Path:
        """A directory for each release."""
        return self.code / "releases"

    @property
    def environments(self) -> Path:
        """A directory for each environment of packages."""
        return self.code / "environments"

    @property
    def renewers(self) -> Path:
        """A directory for what keeps the certificate by ACME: its packages, root's own."""
        return self.code / "renewers"

    @property
    def acme(self) -> Path:
        """The renewer's own: the certificate and its key. systemd makes it, a link to where nobody else comes."""
        return self.state / "acme"

    @property
    def acme_kept(self) -> Path:
        """What holds where that leads."""
        return self.state.parent / "private" / self.name

    @property
    def account(self) -> Path:
        """What systemd gives the renewer: the key of its account among it."""
        return self.state / "account"

    @property
    def renewer_units(self) -> dict[str, Path]:
        """The renewer's unit, that of what lets nginx load a certificate, and what starts this."""
        names = {"renewer": "acme.service", "load": "acme-load.service", "path": "acme-load.path"}
        return {one: self.unit.with_name(f"{self.name}.{name}") for one, name in names.items()}

    @property
    def address(self) -> Path:
        """What lets this host hold the site's address: root's own, and nobody else's to write."""
        return self.state / "address"

    @property
    def address_unit(self) -> Path:
        """The unit of the stack's own keepalived."""
        return self.unit.with_name(f"{self.name}.keepalived.service")

    @property
    def state(self) -> Path:
        """What outlives releases: data, uploads, static files."""
        return self.root / "var" / "lib" / self.name

    @property
    def owner(self) -> Path:
        """Says which stack of which program this is."""
        return self.state / "owner"

    @property
    def made_by(self) -> Path:
        """Says by which resource of the program the stack was set up here the last time."""
        return self.state / "made-by"

    @property
    def not_read(self) -> Path:
        """Is there while systemd has not read all units that were put in place."""
        return self.state / "not-read"

    @property
    def turns(self) -> Path:
        """The turn of each step that was done, a file each."""
        return self.state / "turns"

    @property
    def credentials(self) -> Path:
        """A directory of secrets for each release, root's alone: systemd gives them to the units."""
        return self.root / "etc" / "cluster" / self.stack / "secrets"

    @property
    def given(self) -> Path:
        """For each unit a link to the secrets of its release, as the unit is called after its template."""
        return self.credentials.with_name("units")

    @property
    def secrets(self) -> Path:
        """A directory of secrets for each release that reads them as files of its own, as releases did."""
        return self.state / "secrets"

    @property
    def static(self) -> Path:
        """Collected static files."""
        return self.state / "static"

    @property
    def shared(self) -> Path:
        """What the project writes: uploads among it."""
        return self.state / "shared"

    @property
    def databases(self) -> Path:
        """The project's own sqlite files, where a release would have them itself."""
        return self.shared / ".databases"

    @property
    def schedules(self) -> Path:
        """What is known of schedules' runs."""
        return self.shared / ".schedules"

    @property
    def filesystem(self) -> Path:
        """Says where a filesystem is mounted that the hosts share; not there where this host has its own alone."""
        return self.state / "filesystem"

    def shared_filesystem(self) -> str:
        """Return where that is mounted; empty where this host has what the project writes itself."""
        return self.filesystem.read_text(encoding="utf-8").strip() if self.filesystem.is_file() else ""

    def written(self) -> Path:
        """Return the directory that holds what the project writes, as this host's programs find it."""
        path = self.shared_filesystem()
        return Path(path) / self.name if path else self.shared

    @property
    def token(self) -> Path:
        """Tells that filesystem from another."""
        return self.state / "filesystem.token"

    @property
    def data(self) -> Path:
        """An sqlite database."""
        return self.state / "data"

    @property
    def sessions(self) -> Path:
        """Sessions in files."""
        return self.state / "sessions"

    @property
    def home(self) -> Path:
        """The home directory of the instances' user."""
        return self.state / "home"

    @property
    def sockets(self) -> Path:
        """The instances' sockets and names."""
        return self.root / "run" / self.name

    @property
    def nginx_run(self) -> Path:
        """nginx's own of the stack: its internal socket, and what it is told by files that are there."""
        return self.root / "run" / f"{self.name}-nginx"

    @property
    def internal(self) -> Path:
        """The socket on which nginx tells its configuration's digest."""
        return self.nginx_run / "internal.sock"

    @property
    def relay_internal(self) -> Path:
        """The socket on which nginx tells the digest of what it does for other hosts."""
        return self.nginx_run / "relay-internal.sock"

    @property
    def relay_peers(self) -> Path:
        """The socket on which nginx asks other hosts for their instances."""
        return self.nginx_run / "relay-peers.sock"

    def relay_socket(self, instance: str) -> Path:
        """Return where a host's nginx that has visitors asks itself for an instance, as it asks other hosts."""
        return self.nginx_run / f"relay.{instance}.sock"

    @property
    def closing(self) -> Path:
        """While it is there, an nginx before 1.27.4 closes clients' connections after each response."""
        return self.nginx_run / "closing"

    @property
    def maintenance(self) -> Path:
        """What keeps visitors out, without its ending."""
        return self.state / "maintenance" / "maintenance"

    @property
    def maintenance_file(self) -> Path:
        """The file itself."""
        return self.maintenance.with_name("maintenance.map")

    @property
    def maintenance_kept(self) -> Path:
        """What was asked for, as JSON."""
        return self.maintenance.with_name("maintenance.json")

    @property
    def nginx(self) -> Path:
        """The distribution's nginx."""
        return self.root / NGINX.relative_to("/")

    @property
    def own_nginx(self) -> Path:
        """What the site's file names, beside it."""
        return self.nginx / self.name

    @property
    def shown(self) -> Path:
        """What this host shows the stack's other hosts, and by what it knows them."""
        return self.own_nginx / "hosts"

    @property
    def relay_site(self) -> Path:
        """The file of what nginx does for other hosts; the link to it is of the same name."""
        return self.nginx / "sites-available" / f"zz-{self.name}.relay"

    @property
    def relay_files(self) -> Path:
        """What it includes: a file an instance."""
        return self.own_nginx / "relay"

    @property
    def logs(self) -> Path:
        """Of nginx, which the distribution's logrotate looks after."""
        return self.root / "var" / "log" / "nginx"

    @property
    def access_log(self) -> str:
        """The name of the log of the site's requests, there."""
        return f"{self.name}.access.log"

    @property
    def users(self) -> Path:
        """The users for whom nginx asks."""
        return self.own_nginx / "users"

    @property
    def unit(self) -> Path:
        """The template of the instances' units."""
        return self.root / UNITS.relative_to("/") / f"{self.name}@.service"

    @property
    def started_at_boot(self) -> Path:
        """The links to the units that a boot starts."""
        return self.unit.parent / "multi-user.target.wants"

    @property
    def nginx_unit(self) -> Path:
        """What the stack adds to nginx's own unit."""
        return self.root / UNITS.relative_to("/") / "nginx.service.d" / f"{self.name}.conf"

    @property
    def authority(self) -> Path:
        """By what instances know the stack's other hosts."""
        return self.state / AUTHORITY

    @property
    def table(self) -> str:
        """The stack's name where no - may be: of the kernel's rules, of the database, its user and its cluster.

        systemd would take one in a cluster's name for a directory.
        """
        return self.name.replace("-", "_")

    @property
    def database_guard(self) -> Guard:
        """What says who gets to the database."""
        unit = self.unit.with_name(f"{self.name}-guard.service")
        return Guard(self.stack, "the database", self.table, self.state / "guard.nft", unit)

    @property
    def broker_guard(self) -> Guard:
        """What says who gets to the broker. The name of no stack has a dot, so that nothing of another is called so."""
        unit = self.unit.with_name(f"{self.name}.broker-guard.service")
        return Guard(self.stack, "the broker", f"{self.table}.broker", self.state / "broker-guard.nft", unit)

    @property
    def let_go(self) -> Path:
        """Says what is kept here that the stack file has let be left behind."""
        return self.state / "let-go"

    @property
    def broker_given(self) -> Path:
        """What systemd gives a broker that is asked by TLS: its certificate, its key and who may do what."""
        return self.credentials.with_name("broker")

    @property
    def broker_told(self) -> Path:
        """Says what broker was made."""
        return self.state / "broker.json"

    @property
    def tmpfiles(self) -> Path:
        """Says which directories are made at boot."""
        return self.root / "etc" / "tmpfiles.d" / f"{self.name}.conf"

    @property
    def of_systemd(self) -> dict[str, Path]:
        """What a set-up has put in place, by what it calls it."""
        begin = f"{self.name}."
        beside = {path.name.removeprefix(begin)[: -len("@.service")]: path for path in self.templates()}
        own = {"unit": self.unit, "nginx_unit": self.nginx_unit, "tmpfiles": self.tmpfiles, "authority": self.authority}
        return {**own, **{f"service {name}": path for name, path in beside.items()}}

    def templates(self) -> list[Path]:
        """Return the templates that are there of what runs the project's code beside the instances."""
        return sorted(self.unit.parent.glob(f"{self.name}.*@.service"))

    @property
    def lock(self) -> Path:
        """Held by what changes the host for this stack; not in /run/lock, where everybody could hold it before."""
        return self.root / "run" / "django-cluster" / f"{self.name}.lock"

    @property
    def building(self) -> Path:
        """Held by what builds a package here: nothing else waits for that."""
        return self.lock.with_name(f"{self.name}.building")

    @property
    def build_unit(self) -> str:
        """The unit in which that is done. With a dot its user can be called after no other stack's."""
        return f"{self.name}.build.service"

    @property
    def patterns(self) -> tuple[str, str]:
        """What matches the units of instances, and of what runs the project's code beside them."""
        return f"{self.name}@?*.service", f"{self.name}.*@?*.service"

    def enabled(self) -> set[str]:
        """Return the units that a boot starts."""
        return {path.name for pattern in self.patterns for path in self.started_at_boot.glob(pattern)}

    def daemon(self, name: str) -> Path:
        """Return the unit of a program of the distribution's that the stack has for itself."""
        return self.unit.with_name(f"{self.name}.{name}.service")

    def daemons(self) -> list[Path]:
        """Return the units of such programs that are there."""
        found = self.unit.parent.glob(f"{self.name}.*.service")
        others = {*self.renewer_units.values(), self.address_unit, self.broker_guard.unit}
        return sorted(path for path in found if "@" not in path.name and path not in others)

    def started(self, name: str) -> Path:
        """Return what holds the unit's text by which such a program was started."""
        return self.state / "started" / name

    def sockets_of(self, kind: str) -> Path:
        """Return the directory of the sockets of a kind of such programs."""
        return self.sockets / f".{kind}"

    def kept_by(self, kind: str) -> Path:
        """Return the directory of what a kind of such programs keeps."""
        return self.state / kind

    def template_of(self, service: str) -> Path:
        """Return the template of the units of a service that runs the project's code beside the instances."""
        return self.unit.with_name(f"{self.name}.{service}@.service")

    def unit_of_service(self, service: str, generation: str) -> str:
        """Return the unit of a service; generation: tells its process in a release from others."""
        return f"{self.name}.{service}@{generation}.service"

    def unit_of(self, instance: str, release: str) -> str:
        """Return the unit of an instance of a release."""
        return f"{self.name}@{instance}-{release}.service"
