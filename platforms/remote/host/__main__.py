"""The commands of a host: `WHAT STACK [WORD…]`, and what is told on standard input."""

# ruff: noqa: PLC0415 - what is sent to a host is compiled each time: a command takes what it needs

from __future__ import annotations

import errno
import json
import os
import sys
from typing import TYPE_CHECKING

from platforms.remote.host.paths import HostPaths
from platforms.remote.host.running import HostError, alone, become, put

if TYPE_CHECKING:
    from collections.abc import Callable


def _look(places: HostPaths, words: list[str]) -> None:
    """Words: where a filesystem is to be mounted that the stack's hosts share, if one is."""
    from platforms.remote.host.look import look

    print(json.dumps(look(places, *words)))


def _set_up(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import setting_up

    setting_up.set_up(places, json.load(sys.stdin))


def _lacks(places: HostPaths, words: list[str]) -> None:
    """Print as `kind/digest` what a release needs that is not here; it is not forgotten before its environment."""
    release, environment = words
    if (places.releases / release).is_dir():
        return
    needed = [] if (places.environments / environment).is_dir() else [f"environment/{environment}"]
    print("\n".join([*needed, f"release/{release}"]))


def _daemons(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import daemons

    daemons.start(places, json.load(sys.stdin))


def _broker(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import broker

    broker.make(places, json.load(sys.stdin))


def _ask_broker(places: HostPaths, words: list[str]) -> None:
    """Words: a release. Print as JSON what of the broker is not as it should be for its instances here."""
    from platforms.remote.host import broker_client

    print(json.dumps(broker_client.problems(places, words[0])))


def _receive(places: HostPaths, words: list[str]) -> None:
    from platforms.remote.host import receiving

    receiving.receive(places, words[0], words[1], sys.stdin.buffer)


def _build(places: HostPaths, _words: list[str]) -> None:
    """Print as JSON what became of a package that is to be built; told: an archive, which is read as it comes."""
    from platforms.remote.host import building

    print(json.dumps(building.build(places, sys.stdin.buffer)))


def _prepare(places: HostPaths, words: list[str]) -> None:
    from platforms.remote.host import releases

    releases.prepare(places, words[0], words[1:], sys.stdin.read())


def _start(places: HostPaths, words: list[str]) -> None:
    from platforms.remote.host import releases

    releases.start(places, words[0], words[1:])


def _show(places: HostPaths, words: list[str]) -> None:
    from platforms.remote.host import releases

    releases.show(places, *words)


def _serve(places: HostPaths, words: list[str]) -> None:
    """Words: the release, `alone` or `beside`, and for each instance `name=generation`."""
    from platforms.remote.host import releases

    release, how, *given = words
    pairs = [word.split("=") for word in given]
    names, generations = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    releases.serve(places, release, names, generations, alone=how == "alone")
    if places.shared_filesystem():  # what the former ones have written to this host is asked for there from now on
        _gather(places, [])


def _start_services(places: HostPaths, words: list[str]) -> None:
    """Words: `alone` or `beside`, and for each service `name=generation`."""
    from platforms.remote.host import releases

    releases.start_services(places, words[1:], alone=words[0] == "alone")


def _tidy(places: HostPaths, words: list[str]) -> None:
    """Words: `stop` where another host has failed; where this one has, it has stopped itself what it had started."""
    from platforms.remote.host import releases

    with alone(places.lock):
        releases.tidy(places, stop="stop" in words)


def _let_go(places: HostPaths, words: list[str]) -> None:
    """Words: what is kept here and was let be left behind."""
    from platforms.remote.host import leaving

    with alone(places.lock):
        leaving.leave(places, words)


def _retire(places: HostPaths, _words: list[str]) -> None:
    """Let go of what is not wanted: all that is told as JSON is what stays.

    `release`, `instances`, `services` (each as `name=generation`), `daemons`, `relayed` (the ports where other hosts
    ask for its instances), `visited` (whether nginx has the site), `renewed` (whether its certificate comes by ACME),
    `polite`, as `site.swap`; `holds`, where it is one of the hosts that hold the site's address, and `broker`, where
    others ask for it here.
    """
    from platforms.remote.host import address, broker, daemons, relaying, releases, renewing, site

    wanted = json.load(sys.stdin)
    if not wanted.get("holds", False):
        address.leave(places)  # while the site answers here
    relaying.trim(places, wanted["relayed"], polite=wanted["polite"])
    if not wanted["visited"]:
        site.withdraw(places)
    if not wanted["renewed"]:
        renewing.forget(places)
    releases.retire(places, wanted["release"], wanted["instances"], wanted["services"])
    daemons.forget(places, {*wanted["daemons"]})
    if not wanted.get("broker", False):
        broker.forget(places)
    if places.shared_filesystem():
        from platforms.remote.host import filesystem

        filesystem.put_aside(places)
        if not wanted["instances"] and not wanted["visited"]:
            filesystem.forget(places)


def _relays(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import relaying

    relaying.deliver(places, json.load(sys.stdin))


def _address(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import address

    address.hold(places, json.load(sys.stdin))


def _part(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import address

    with alone(places.lock):
        address.part(places)


def _adopt(places: HostPaths, words: list[str]) -> None:
    from platforms.remote.host import releases

    releases.adopt(places, words[0], sys.stdin.read())


def _static_of(places: HostPaths, words: list[str]) -> None:
    from platforms.remote.host import sending

    sending.send_static(places, words[0], sys.stdout.buffer)


def _send(places: HostPaths, words: list[str]) -> None:
    """Words: `release` or `environment`, and which."""
    from platforms.remote.host import sending

    sending.send(places, words[0], words[1], sys.stdout.buffer)


def _environment_of(places: HostPaths, words: list[str]) -> None:
    """Words: a release. Print what its environment of packages is called."""
    from platforms.remote.host import sending

    print(sending.environment_of(places, words[0]))


def _receive_static(places: HostPaths, words: list[str]) -> None:
    from platforms.remote.host import sending

    sending.receive_static(places, words[0], sys.stdin.buffer)


def _prove(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import filesystem

    filesystem.write_proof(places, json.load(sys.stdin))


def _unread(places: HostPaths, _words: list[str]) -> None:
    """Print as JSON what other hosts have written that is not seen here, and the instances that don't see any of it."""
    from platforms.remote.host import filesystem

    asked = json.load(sys.stdin)
    blind = filesystem.blind(places, asked["shared"]) if asked["shared"] else []
    print(json.dumps({"unread": filesystem.unread(places, asked), "blind": blind}))


def _gather(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import filesystem

    filesystem.gather(places)


def _postgres(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import postgres

    postgres.make(places, json.load(sys.stdin))


def _shut_out(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import broker, postgres

    with alone(places.lock):
        postgres.shut_out(places)
        broker.shut_out(places)


def _reaches(_places: HostPaths, words: list[str]) -> None:
    """Words: an address and a port. Print whether something takes a connection there."""
    from platforms.remote.host.guarding import reaches

    print("yes" if reaches(words[0], int(words[1])) else "no")


def _site(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import site

    site.deliver(places, json.load(sys.stdin))


def _closing(places: HostPaths, _words: list[str]) -> None:
    """Let responses end their connections until standard input ends, a signal says so, or for a while."""
    import select
    import signal

    from platforms.remote.host import site

    ended, end = os.pipe()
    os.set_blocking(end, False)
    signal.set_wakeup_fd(end)
    for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(one, lambda *_: None)  # it interrupts nothing, so that connections are surely kept again
    site.hold_closing(places, lambda seconds: select.select([sys.stdin, ended], [], [], seconds))


def _maintain(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import maintaining

    maintaining.maintain(places, json.load(sys.stdin))


def _renew(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import renewing

    renewing.renew(places, json.load(sys.stdin))


def _renewal(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import renewing

    print(json.dumps(renewing.said(places)))


def _load(places: HostPaths, words: list[str]) -> None:
    """Words: `polite` where clients' connections are closed before a reload."""
    from platforms.remote.host import renewing

    renewing.load(places, polite="polite" in words)


def _lacks_renewer(places: HostPaths, words: list[str]) -> None:
    """Print what keeps a certificate where it is not here."""
    if not (places.renewers / words[0]).is_dir():
        print(words[0])


def _listening(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import broker
    from platforms.remote.host.look import listening

    print(json.dumps(listening(places, broker.port(places))))


def _unit(places: HostPaths, _words: list[str]) -> None:
    """Print the template of the instances' units, as the last set-up has put it here."""
    print(places.unit.read_text(encoding="utf-8"), end="")


def _config(places: HostPaths, words: list[str]) -> None:
    from platforms.remote.host import releases

    print(releases.config_of(places, words[0]))


def _release(places: HostPaths, words: list[str]) -> None:
    """Print what a release was made of; told: the digests of files that need not be said, by their paths."""
    from platforms.remote.host import showing

    print(json.dumps(showing.release(places, words[0], json.load(sys.stdin))))


def _site_files(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import showing

    print(json.dumps(showing.site(places)))


def _check_nginx(places: HostPaths, _words: list[str]) -> None:
    """Print as JSON what nginx says of a site's file that it refuses, or null."""
    from platforms.remote.host import checking

    print(json.dumps(checking.check(places, json.load(sys.stdin))))


def _ask(places: HostPaths, words: list[str]) -> None:
    from platforms.remote.host.asking import ask

    found = ask(places.internal, words[0])
    if found is None:
        raise HostError("nginx does not answer")
    print(found)


def _relay(places: HostPaths, words: list[str]) -> None:
    """Pass a connection on to a socket: as the instances' user, but to nginx's own, which only root reaches."""
    from platforms.remote.host import passing

    if words[0] != str(places.internal):
        become(places)
    passing.relay(words[0])


def _relay_all(places: HostPaths, _words: list[str]) -> None:
    from platforms.remote.host import passing

    passing.relay_all(places)


def _remove(places: HostPaths, words: list[str]) -> None:
    """Words: `data` for what the site has stored too, or `by=` and the resource that goes."""
    from platforms.remote.host import removing

    made_by = next((word.removeprefix("by=") for word in words if word.startswith("by=")), "")
    with alone(places.lock):
        removing.remove(places, data="data" in words, made_by=made_by)


COMMANDS: dict[str, Callable[[HostPaths, list[str]], None]] = {
    "address": _address,
    "adopt": _adopt,
    "ask": _ask,
    "ask-broker": _ask_broker,
    "broker": _broker,
    "build": _build,
    "check-nginx": _check_nginx,
    "closing": _closing,
    "config": _config,
    "daemons": _daemons,
    "environment-of": _environment_of,
    "gather": _gather,
    "lacks": _lacks,
    "lacks-renewer": _lacks_renewer,
    "let-go": _let_go,
    "listening": _listening,
    "load": _load,
    "look": _look,
    "maintain": _maintain,
    "part": _part,
    "postgres": _postgres,
    "prepare": _prepare,
    "prove": _prove,
    "reaches": _reaches,
    "receive": _receive,
    "receive-static": _receive_static,
    "relay": _relay,
    "relay-all": _relay_all,
    "relays": _relays,
    "release": _release,
    "remove": _remove,
    "renew": _renew,
    "renewal": _renewal,
    "retire": _retire,
    "send": _send,
    "serve": _serve,
    "set-up": _set_up,
    "show": _show,
    "shut-out": _shut_out,
    "site": _site,
    "site-files": _site_files,
    "start": _start,
    "start-services": _start_services,
    "static-of": _static_of,
    "tidy": _tidy,
    "unit": _unit,
    "unread": _unread,
}


#: Those that change something: one at a time. Their first word after the stack is the step's turn, which is written
#: down once it is done.
CHANGING = frozenset(
    (
        "address",
        "adopt",
        "broker",
        "daemons",
        "gather",
        "maintain",
        "postgres",
        "prepare",
        "receive",
        "receive-static",
        "relays",
        "renew",
        "retire",
        "serve",
        "set-up",
        "show",
        "site",
        "start",
        "start-services",
    )
)


def main(arguments: list[str]) -> int:
    """Do what the words say; return the exit status."""
    what, stack, *words = arguments
    os.umask(0o022)
    places = HostPaths(stack)
    try:
        if what not in CHANGING:
            COMMANDS[what](places, words)
            return 0
        step, _, turn = words[0].rpartition("=")
        with alone(places.lock):
            COMMANDS[what](places, words[1:])
            put(places.turns / step, f"{turn}\n")
    except HostError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        print(f"{error.strerror}: {error.filename or places.state}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
