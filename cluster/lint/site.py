"""Lints of the site: names, ports, static files, and the version of nginx."""

from __future__ import annotations

import contextlib
import stat
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from cluster.config.kinds import PathPrefix
from cluster.config.redirects import covered_names
from cluster.config.snippets import own_directives
from cluster.endpoints import HTTP, HTTPS
from cluster.lint.acme import ACME_RULES
from cluster.lint.http3 import HTTP3_RULES
from cluster.lint.rule import ERROR, NOTE, WARNING, Remark, Rule
from cluster.lint.upstream import LONGEST_WORD
from cluster.lint.users import USER_RULES
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE, shown
from cluster.tls.certificates import FEW_DAYS, CertificateError, certificate_of, ending
from cluster_runtime.checks import PREFIX

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.config.site import CertificateFiles
    from cluster.lint.finding import Facts, Version
    from cluster.lint.rule import Remarks

LARGEST_PORT = 65535
PRIVILEGED_PORTS = 1024

#: Seconds: the steps by which HSTS is made longer.
LADDER = (300, 604_800, 2_592_000)

#: keepalive_time of an upstream, without which nothing here works (nginx's changes).
OLDEST_NGINX: Version = (1, 19, 10)
OLDEST_TESTED_NGINX: Version = (1, 22, 0)


def _instance_ports(config: ClusterConfig) -> range:
    first = config.site.instance_ports
    return range(0) if first is None else range(first, first + len(config.upstream.servers))


def _instance_ports_beyond(config: ClusterConfig, _facts: Facts) -> Remarks:
    # nginx: invalid port.
    ports = _instance_ports(config)
    if ports and ports[-1] > LARGEST_PORT:
        why = f"The last of {len(ports)} instances would have port {ports[-1]}, and ports end at {LARGEST_PORT}."
        yield Remark("site.instance_ports", why, f"Choose {LARGEST_PORT + 1 - len(ports)} or less.")


def _same_port(config: ClusterConfig, _facts: Facts) -> Remarks:
    # nginx takes it: on 127.0.0.1 the port is then an instance's, elsewhere the site's.
    ports = _instance_ports(config)
    for port, key in config.site.listeners.items():
        if port in ports:
            name = config.upstream.servers[port - ports[0]].name
            why = f"Port {port} would be the site's and, on 127.0.0.1, that of {name} alone."
            yield Remark(key, why, f"Choose a port outside {ports[0]} to {ports[-1]}, or other instance_ports.")


def _port_of_other_stack(config: ClusterConfig, facts: Facts) -> Remarks:
    # Both at a time can't be.
    for path, ports in (
        *((key, range(port, port + 1)) for port, key in config.site.listeners.items()),
        ("site.instance_ports", _instance_ports(config)),
    ):
        taken = {port: stack for port, stack in sorted(facts.other_listens.items()) if port in ports}
        for port, stack in taken.items():
            yield Remark(path, f"The stack {stack} listens on port {port} too.", "Choose another port in one of them.")


def _no_ipv6(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Pulumi's provider for Docker (5.2) reads the two addresses of one port back as twice the same: nginx would be
    # replaced by each `up`. And an engine without IPv6 in its networks shows all such clients as one of its own.
    if config.site.ipv6 and not config.platform.traits.ipv6:
        why = f"Platform {config.platform} publishes no port by IPv6, and nobody would reach this listener."
        yield Remark("site.ipv6", why, "Leave it out, and let what is before the site listen by IPv6.")


def _privileged_port(config: ClusterConfig, facts: Facts) -> Remarks:
    # nginx: bind() failed (13: Permission denied), unless the machine allows it.
    for port, key in (*config.site.listeners.items(), (config.site.instance_ports, "site.instance_ports")):
        if facts.privileged is False and port is not None and port < PRIVILEGED_PORTS:
            why = f"Only root may listen on port {port}, unless this machine allows it to others."
            yield Remark(key, why, "Choose a port from 1024, or run as root.")


def _https_port(config: ClusterConfig, _facts: Facts) -> Remarks:
    if config.site.listen == HTTPS:
        why = "nginx speaks plain HTTP on this port, and browsers expect HTTPS on 443."
        yield Remark("site.listen", why, "Choose another port, such as 80, and let site.tls listen on 443.")


def _https_elsewhere(config: ClusterConfig, _facts: Facts) -> Remarks:
    # On one's own machine another port than 443 is the usual thing.
    tls = config.site.tls
    if tls is not None and tls.files is not None and (tls.listen == HTTPS) != (config.site.listen == HTTP):
        key, port = ("listen", HTTP) if tls.listen == HTTPS else ("tls.listen", HTTPS)
        why = "One of the two ports is the one that browsers ask by themselves, and the other one is not."
        yield Remark(f"site.{key}", why, f"Choose {port}, unless something before nginx leads there.")


def _self_signed(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A browser that was not told of the authority shows a warning instead of the site.
    if config.site.tls is not None and config.site.tls.self_signed and not config.platform.traits.private:
        why = "No browser believes the stack's own authority until its user has told it to."
        yield Remark("site.tls.self_signed", why, "Use it for development; for others give a certificate by `files`.")


def _given(config: ClusterConfig) -> CertificateFiles | None:
    """Return the certificate that somebody else renews, where the site has one."""
    return config.site.tls.files if config.site.tls is not None else None


def _certificate_files(config: ClusterConfig, facts: Facts) -> Remarks:
    # What nginx or a browser would refuse, before anything is changed.
    files = _given(config)
    if files is None or facts.root is None or facts.now is None:
        return
    try:
        certificate_of(config, facts.root, "", facts.now)
    except CertificateError as error:
        key, why = str(error).split(": ", 1)
        yield Remark(key, f"{why}.", "Give nginx a certificate that a browser takes.")


def _incomplete_chain(config: ClusterConfig, facts: Facts) -> Remarks:
    # A client that has met the authority elsewhere believes it, and the next one does not.
    files = _given(config)
    if files is None or facts.root is None or facts.now is None:
        return
    from cluster.tls.files import unended  # noqa: PLC0415 - cryptography takes its time

    try:
        certificate_of(config, facts.root, "", facts.now)
        last = unended(facts.root / files.certificate, facts.root / files.key)
    except (CertificateError, ValueError, OSError):
        return  # another rule says so
    if last is not None:
        why = f"The file ends with {last}, whom neither browsers nor this machine know."
        remedy = (
            "Put the authorities' certificates after the site's own, up to one that clients know (fullchain.pem). "
            "Where all clients know your company's authority, nothing is wrong."
        )
        yield Remark("site.tls.files.certificate", why, remedy)


def _ending_certificate(config: ClusterConfig, facts: Facts) -> Remarks:
    # Certificates of public authorities last 90 days, soon 45; what renews them has a month, or two weeks.
    files = _given(config)
    if files is None or facts.root is None or facts.now is None:
        return
    try:
        end = ending(facts.root, files)
    except CertificateError:
        return  # another rule says so
    left = (end - facts.now).days
    if left < FEW_DAYS:
        why = f"The certificate ends in {left} days, on {end:%Y-%m-%d}: browsers show no page from then on."
        yield Remark("site.tls.files.certificate", why, "Renew it, and say `cluster up`.")


def _readable_key(config: ClusterConfig, facts: Facts) -> Remarks:
    # Whoever has the key can be the site.
    files = _given(config)
    if files is None or facts.root is None:
        return
    with contextlib.suppress(OSError):  # another rule says so
        mode = stat.S_IMODE((facts.root / files.key).stat().st_mode)
        if mode & 0o077:
            why = f"Others on this machine can read the key (mode {mode:04o}), and with it be the site."
            yield Remark("site.tls.files.key", why, f"Let its owner alone read it: chmod 600 {files.key} .")


def _hsts_ladder(config: ClusterConfig, _facts: Facts) -> Remarks:
    # https://hstspreload.org: five minutes, a week, a month, and only then two years.
    hsts = config.site.tls.hsts if config.site.tls is not None else None
    if hsts is not None and hsts.max_age.seconds > LADDER[-1] and not hsts.preload:
        yield Remark(
            "site.tls.hsts.max_age",
            "Nobody can take it back: a browser asks by https alone until it is over.",
            "Climb: 5m, 7d, 30d, each for as long as it says without complaints, and then 730d.",
        )
    if hsts is not None and config.site.tls is not None and config.site.tls.self_signed:
        why = "A browser that does not believe the stack's authority can't be told to go on any more."
        yield Remark("site.tls.hsts", why, "Leave it out where the certificate is self_signed.")


def _duplicate_server_names(config: ClusterConfig, _facts: Facts) -> Remarks:
    # nginx: conflicting server name ignored.
    seen: dict[str, str] = {}
    for number, name in enumerate(config.site.server_names):
        for covered in covered_names(name.lower()):
            if covered in seen:
                why = f"{seen[covered]} says {covered} already, and nginx ignores the second."
                yield Remark(f"site.server_names[{number}]", why, "Remove one of them.")
                break
        seen.update({covered: seen.get(covered, name) for covered in covered_names(name.lower())})


def _any_host(config: ClusterConfig, _facts: Facts) -> Remarks:
    # ALLOWED_HOSTS becomes '*'; on one's own machine that harms nobody.
    if config.platform.traits.private or "_" not in config.site.server_names:
        return
    number = config.site.server_names.index("_")
    why = (
        "With `_` Django believes any Host header (ALLOWED_HOSTS is '*'), for example in a mail that resets a password."
    )
    yield Remark(f"site.server_names[{number}]", why, "Name the site's hosts instead of `_`.")


def _unlimited_bodies(config: ClusterConfig, _facts: Facts) -> Remarks:
    # One request may fill the disk.
    own = [
        (f"site.locations[{n}]", one.client_max_body_size)
        for n, one in enumerate(config.site.locations)
        if one.buffering
    ]
    for path, size in [("site", config.site.client_max_body_size), *own]:
        if size == 0:
            why = "With 0 nginx takes request bodies of any size, each into a file first: one client can fill the disk."
            remedy = "Set the largest size that the project needs, for example 1g."
            yield Remark(f"{path}.client_max_body_size", why, remedy)


def _static_url_reserved(config: ClusterConfig, _facts: Facts) -> Remarks:
    # nginx: duplicate location "/-/".
    if config.site.static_url == PREFIX:
        why = "The path /-/ is the runtime's, and nginx refuses a second location of that name."
        yield Remark("site.static_url", why, "Choose another path, and set the project's STATIC_URL to it.")


def _static_url_dots(config: ClusterConfig, _facts: Facts) -> Remarks:
    # It would also lead collectstatic out of the release.
    url = config.site.static_url
    if url is not None and {".", ".."} & set(url.split("/")):
        why = "nginx resolves . and .. before it looks for a location, so this one never matches a request."
        yield Remark("site.static_url", why, "Write the path without . and .. in it.")


def _static_url_long(config: ClusterConfig, _facts: Facts) -> Remarks:
    # nginx: too long parameter.
    if config.site.static_url is not None and len(config.site.static_url) > LONGEST_WORD:
        yield Remark("site.static_url", "nginx refuses a word of more than 4096 bytes.", "Write a shorter path.")


def _headers_of_snippets(config: ClusterConfig, _facts: Facts) -> Remarks:
    # nginx gives a location, or a server, that adds a header of its own none of what is added around it.
    for key, text in (("http", config.site.snippets.http), ("server", config.site.snippets.server)):
        for name, *_value in own_directives(text, "add_header"):
            why = f"nginx does not add {name} to static files and uploads, whose locations have headers of their own."
            yield Remark(f"site.snippets.{key}", why, "Say it in site.headers, which is of every answer.")


def _project_static_url(facts: Facts) -> str | None:
    """Return the project's STATIC_URL as Django completes it; None where it is not known, or nothing uses it."""
    project = facts.project or {}
    url = project.get("static_url")
    if not isinstance(url, str) or not url or project.get("static_app") is False:
        return None
    return url if url.startswith(("/", "http://", "https://")) else f"/{url}"


def _static_url_differs(config: ClusterConfig, facts: Facts) -> Remarks:
    # The pages ask for files where nginx has none.
    url = _project_static_url(facts)
    if url is None or not url.startswith("/") or url.startswith("//"):
        return
    if config.site.static_url in (None, url):
        return
    why = f"The project's STATIC_URL is {url}, and nginx serves static files below {config.site.static_url}."
    yield Remark("site.static_url", why, f"Set it to {url if _can_be_set(url) else 'null'}.")


def _can_be_set(url: str) -> bool:
    try:
        TypeAdapter(PathPrefix).validate_python(url)
    except ValidationError:
        return False
    return True


def _static_elsewhere(config: ClusterConfig, facts: Facts) -> Remarks:
    # Pages ask another server, which may take the files from this one: by STATIC_URL's own path, and no other.
    url = _project_static_url(facts)
    if config.site.static_url is None or url is None or not urlsplit(url).netloc:
        return
    path = urlsplit(url).path
    if config.site.static_url != path:
        why = (
            f"The project's STATIC_URL is {url}: its pages ask another server, which finds nothing here below {path}, "
            f"as nginx serves static files below {config.site.static_url}."
        )
        yield Remark("site.static_url", why, f"Set it to {path if _can_be_set(path) else 'null'}.")


def _static_not_collected(config: ClusterConfig, _facts: Facts) -> Remarks:
    # nginx serves what collectstatic collected, and nothing else.
    if config.site.static_url is not None and not config.app.collectstatic:
        why = f"Nothing is collected, so nginx passes requests below {config.site.static_url} on to the project."
        yield Remark("app.collectstatic", why, "Set it to true, or set site.static_url to null if the project answers.")


def _static_app_missing(config: ClusterConfig, facts: Facts) -> Remarks:
    # There is nothing to collect.
    if config.site.static_url is not None and (facts.project or {}).get("static_app") is False:
        why = "The project does not use django.contrib.staticfiles, so nginx answers 404 below this path."
        yield Remark("site.static_url", why, "Set it to null, or add the app to INSTALLED_APPS.")


def _nginx_too_old(_config: ClusterConfig, facts: Facts) -> Remarks:
    # nginx: unknown directive "keepalive_time".
    if facts.nginx is not None and facts.nginx < OLDEST_NGINX:
        why = f"nginx {shown(facts.nginx)} does not know keepalive_time, by which a release loses no request."
        yield Remark("platform", why, "Install nginx 1.22 or newer.")


def _nginx_untested(_config: ClusterConfig, facts: Facts) -> Remarks:
    # It may do.
    if facts.nginx is not None and OLDEST_NGINX <= facts.nginx < OLDEST_TESTED_NGINX:
        why = f"The configuration is tested with nginx from 1.22 on, and this one is {shown(facts.nginx)}."
        yield Remark("platform", why, "Install nginx 1.22 or newer.")


def _reload_closes_connections(_config: ClusterConfig, facts: Facts) -> Remarks:
    # What the renderer can work around for clients that are busy.
    if facts.nginx is not None and OLDEST_NGINX <= facts.nginx < KEEPALIVE_MIN_TIMEOUT_SINCE:
        why = (
            f"A reload of nginx {shown(facts.nginx)} closes clients' idle connections; those of busy ones are ended "
            "in time, but a client that wakes up at that very moment sees a reset."
        )
        yield Remark("platform", why, "Install nginx 1.27.4 or newer, which has keepalive_min_timeout.")


SITE_RULES = (
    Rule("instance-ports-beyond", ERROR, "The instances' ports go beyond 65535.", _instance_ports_beyond),
    Rule("same-port", ERROR, "The site's port is also an instance's.", _same_port),
    Rule("static-url-reserved", ERROR, "The path /-/ is the runtime's.", _static_url_reserved),
    Rule("static-url-dots", ERROR, "A static_url with . or .. in it never matches.", _static_url_dots),
    Rule("static-url-long", ERROR, "nginx refuses words of more than 4096 bytes.", _static_url_long),
    Rule("static-url-differs", ERROR, "site.static_url is not the project's STATIC_URL.", _static_url_differs),
    Rule("nginx-too-old", ERROR, "nginx is older than 1.19.10 and refuses the configuration.", _nginx_too_old),
    Rule("port-of-other-stack", WARNING, "Another stack listens on the same port.", _port_of_other_stack),
    Rule("privileged-port", WARNING, "Only root may listen on ports below 1024.", _privileged_port),
    Rule("ipv6", ERROR, "A listener by IPv6 where the platform publishes no port by it.", _no_ipv6),
    Rule("https-port", WARNING, "Port 443 without TLS.", _https_port),
    Rule(
        "https-elsewhere",
        NOTE,
        "One of the ports of http and https is the usual one, and the other is not.",
        _https_elsewhere,
    ),
    Rule("self-signed", WARNING, "A certificate by the stack's own authority, for others than oneself.", _self_signed),
    *ACME_RULES,
    *HTTP3_RULES,
    Rule("certificate", ERROR, "A certificate or a key that nginx or a browser refuses.", _certificate_files),
    Rule("certificate-chain", WARNING, "A chain that ends before an authority that clients know.", _incomplete_chain),
    Rule("certificate-ends", WARNING, "A certificate that ends within 14 days.", _ending_certificate),
    Rule("readable-key", WARNING, "A private key that others can read.", _readable_key),
    Rule(
        "hsts",
        WARNING,
        "Strict-Transport-Security that is longer than anybody has tried, or can't be kept.",
        _hsts_ladder,
    ),
    *USER_RULES,
    Rule("duplicate-server-name", WARNING, "nginx ignores a server name that stands twice.", _duplicate_server_names),
    Rule("any-host", WARNING, "With `_` Django believes any Host header.", _any_host),
    Rule("unlimited-bodies", WARNING, "nginx takes request bodies of any size.", _unlimited_bodies),
    Rule("snippet-header", WARNING, "A header that a snippet adds is not of every answer.", _headers_of_snippets),
    Rule("static-elsewhere", WARNING, "STATIC_URL is on another server, by another path.", _static_elsewhere),
    Rule(
        "static-not-collected",
        WARNING,
        "Nothing collects the static files that nginx is to serve.",
        _static_not_collected,
    ),
    Rule(
        "nginx-untested", WARNING, "nginx is older than those that the configuration is tested with.", _nginx_untested
    ),
    Rule("static-app-missing", NOTE, "The project has no static files to collect.", _static_app_missing),
    Rule(
        "reload-closes-connections",
        NOTE,
        "A reload of an nginx before 1.27.4 closes idle connections of clients.",
        _reload_closes_connections,
    ),
)
