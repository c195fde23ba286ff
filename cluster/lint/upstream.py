"""Lints of the upstream: what nginx refuses, ignores or does otherwise than one would think.

Sources: https://nginx.org/en/docs/http/ngx_http_upstream_module.html, and `nginx -t` of 1.22, 1.26 and 1.30.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cluster.config.models import Method
from cluster.lint.rule import ERROR, NOTE, WARNING, Remark, Rule, longest_wait, numbered_servers, serving, standby
from cluster.lint.variables import EMPTY_VARIABLES, is_variable, variables_in
from cluster.topology import percent, shares
from cluster_runtime.clearing import CLEARED

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.lint.finding import Facts
    from cluster.lint.rule import Remarks

#: Methods that know no backup.
WITHOUT_BACKUP = (Method.IP_HASH, Method.HASH, Method.RANDOM)

#: Names that a platform has given away: what lies beside the instances' directories, and what else has a process, a
#: container or a log of its own, so that `cluster logs NAME` would mean both.
RESERVED_NAMES = {
    CLEARED: "a file of the runtime",
    "closing": "a file of nginx",
    "nginx": "nginx",
    "access": "nginx's access log",
    "error": "nginx's error log",
    "supervisord": "Supervisor",
    "supervisor": "Supervisor",
    "postgres": "the database",
    "database": "the database",
    "memcached": "the memcached nodes",
    "prepare": "what makes a release",
    "task": "what makes a release",
    "static": "the static files",
}
RESERVED_NODE = re.compile(r"memcached[0-9]+")

#: nginx takes no longer word from a file (NGX_CONF_BUFFER), in bytes; quotes and a margin are taken off.
LONGEST_WORD = 4000

#: A consistent hash keeps 160 points of 16 bytes for each unit of weight, in every process and at every load.
BYTES_PER_WEIGHT = 160 * 16
HEAVY_WEIGHTS = 10_000
LARGEST_WEIGHTS = 1_000_000

#: A larger share than this is nearly all of the traffic.
LOPSIDED = 0.9

#: Seconds of a request from which on the number of open requests matters more than the number of requests.
LONG_REQUEST = 60


def _duplicate_names(config: ClusterConfig, _facts: Facts) -> Remarks:
    # An instance's name is its directory of sockets.
    seen: dict[str, str] = {}
    for path, server in numbered_servers(config):
        if server.name in seen:
            why = f"The name {server.name} is already that of {seen[server.name]}, and both would be one instance."
            yield Remark(f"{path}.name", why, "Give each server a name of its own.")
        seen.setdefault(server.name, path)


def _reserved_names(config: ClusterConfig, _facts: Facts) -> Remarks:
    # An instance's name is a directory, a program and a log among those of the platform.
    for path, server in numbered_servers(config):
        whose = "a memcached node" if RESERVED_NODE.fullmatch(server.name) else RESERVED_NAMES.get(server.name)
        if whose:
            why = f"{server.name} is the name of {whose} already."
            yield Remark(f"{path}.name", why, f"Choose another name for this server, for example {server.name}-app.")


def _backup_with_hash(config: ClusterConfig, _facts: Facts) -> Remarks:
    # nginx: balancing method does not support parameter "backup".
    method = config.upstream.method
    for path, server in numbered_servers(config):
        if server.backup and method in WITHOUT_BACKUP:
            why = f"nginx refuses a backup with the method {method}."
            remedy = "Remove `backup`, or set upstream.method to round_robin or least_conn."
            yield Remark(f"{path}.backup", why, remedy)


def _all_backup(config: ClusterConfig, _facts: Facts) -> Remarks:
    # nginx: no servers in upstream.
    if all(server.backup for server in config.upstream.servers):
        why = "Every server is a backup, and nginx refuses an upstream that has no other server."
        yield Remark("upstream.servers", why, "Remove `backup` from at least one server.")


def _all_down(config: ClusterConfig, _facts: Facts) -> Remarks:
    # nginx takes it, and answers every request with 502.
    if all(server.down for server in config.upstream.servers):
        why = "Every server is down, so nginx answers each request with 502."
        yield Remark("upstream.servers", why, "Remove `down` from at least one server.")


def _only_backups_serve(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Valid, and works: but the backups are no longer a reserve.
    if standby(config) and not serving(config) and not all(server.backup for server in config.upstream.servers):
        why = "All servers but the backups are down, so the backups take the traffic and nothing is in reserve."
        yield Remark("upstream.servers", why, "Remove `down` from a server, or `backup` from those that serve.")


def _one_instance(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A release loses nothing even so; a crash does.
    if len(config.upstream.servers) == 1 and serving(config):
        why = "With one instance, the site is away while it is started again after a crash."
        yield Remark("upstream.servers", why, "Add a second server.")


def _limits_of_lone_server(config: ClusterConfig, _facts: Facts) -> Remarks:
    # nginx never passes a lone server over.
    if len(config.upstream.servers) != 1:
        return
    server = config.upstream.servers[0]
    for key in ("max_fails", "fail_timeout"):
        if server.max_fails and key in server.model_fields_set:
            why = f"nginx ignores {key} where there is one server."
            yield Remark(f"upstream.servers[0].{key}", why, f"Remove `{key}`, or add a server.")


def _fail_timeout_alone(config: ClusterConfig, _facts: Facts) -> Remarks:
    # nginx's own max_fails is 1, ours is 0: to try an instance that is gone costs nothing here.
    for path, server in numbered_servers(config):
        if "fail_timeout" in server.model_fields_set and not server.max_fails:
            why = "fail_timeout is the time in which max_fails are counted, and with max_fails 0 none are."
            yield Remark(f"{path}.fail_timeout", why, "Set `max_fails`, for example to 3, or remove `fail_timeout`.")


def _max_fails_everywhere(config: ClusterConfig, _facts: Facts) -> Remarks:
    # nginx: no live upstreams while connecting to upstream.
    servers = [*serving(config), *standby(config)]
    if len(servers) > 1 and all(server.max_fails for server in servers):
        why = "Every server has max_fails, so after some resets nginx may pass over all of them and answer 502 itself."
        yield Remark("upstream.servers", why, "Leave at least one server without `max_fails`.")


def _last_serving_server(config: ClusterConfig, _facts: Facts) -> Remarks:
    # With servers that are down beside it, nginx does not treat it as a lone one.
    if len(config.upstream.servers) == 1 or len(serving(config)) != 1 or standby(config):
        return
    for path, server in numbered_servers(config):
        if not server.down and server.max_fails:
            why = (
                f"{server.name} is the only one that gets traffic, and after max_fails failed attempts "
                f"({server.max_fails}) nginx answers 502 for fail_timeout ({server.fail_timeout})."
            )
            yield Remark(f"{path}.max_fails", why, "Set `max_fails: 0` while it is alone, or let another one serve.")


def _lopsided_shares(config: ClusterConfig, _facts: Facts) -> Remarks:
    # What is left of the cluster when the heavy one dies.
    if len(serving(config)) == 1:
        return
    share = shares(config.upstream.servers)
    for path, server in numbered_servers(config):
        if share[server.name] > LOPSIDED:
            why = (
                f"{server.name} takes {percent(share[server.name])} of the traffic; if it dies, the rest takes it all."
            )
            yield Remark(f"{path}.weight", why, "Lower its weight, or raise the others'.")


def _ignored_by_down(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A server that is down gets no traffic at all.
    for path, server in numbered_servers(config):
        without_effect = {"weight": server.weight != 1, "backup": server.backup}
        for key in (key for key, said in without_effect.items() if said and server.down):
            why = f"{server.name} is down, so its {key} has no effect."
            yield Remark(f"{path}.{key}", why, f"Keep `{key}` if `down` is for a while, else remove it.")


def _weight_of_lone_backup(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Weights of backups are shares among the backups.
    if len(standby(config)) != 1:
        return
    for path, server in numbered_servers(config):
        if server.backup and not server.down and server.weight != 1:
            why = f"A backup's weight counts among the backups only, and {server.name} is the only one."
            yield Remark(f"{path}.weight", why, "Remove `weight`.")


def _max_conns_everywhere(config: ClusterConfig, _facts: Facts) -> Remarks:
    # The queue that would hold what is too much is commercial.
    servers = [*serving(config), *standby(config)]
    if servers and all(server.max_conns for server in servers):
        total = sum(server.max_conns for server in servers)
        why = f"Every server has max_conns, so nginx answers 502 once {total} requests are open, instead of waiting."
        yield Remark("upstream.servers", why, "Leave one server without `max_conns`; instances queue by themselves.")


def _max_conns_below_threads(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Threads that never get a request.
    if config.app.interface != "wsgi":
        return
    threads = config.app.workers * config.app.threads
    for path, server in numbered_servers(config):
        if 0 < server.max_conns < threads:
            why = f"With max_conns {server.max_conns}, {threads - server.max_conns} of {threads} threads stay idle."
            yield Remark(f"{path}.max_conns", why, "Raise `max_conns`, or lower app.workers or app.threads.")


def _keepalive_below_instances(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Measured: a small keepalive is nearly as slow as none.
    count, keepalive = len(config.upstream.servers), config.upstream.keepalive
    if keepalive < count:
        why = f"nginx keeps {keepalive} idle connections to {count} instances, so most requests need a new one."
        yield Remark("upstream.keepalive", why, f"Raise it to {max(32, count)} or more.")


def _fail_timeout_milliseconds(config: ClusterConfig, _facts: Facts) -> Remarks:
    # nginx reads fail_timeout as whole seconds: invalid parameter "fail_timeout=500ms".
    for path, server in numbered_servers(config):
        if int(server.fail_timeout) % 1000:
            why = f"nginx counts fail_timeout in whole seconds and refuses {server.fail_timeout}."
            yield Remark(f"{path}.fail_timeout", why, "Write whole seconds, for example 1s.")


def _hash_key_invalid(config: ClusterConfig, _facts: Facts) -> Remarks:
    # nginx: invalid variable name, unknown "x" variable, too long parameter.
    if config.upstream.method is not Method.HASH:
        return
    key = config.upstream.hash.key
    remedy = "Use variables such as $request_uri, $remote_addr or $cookie_sessionid."
    if len(key.encode()) > LONGEST_WORD:
        yield Remark("upstream.hash.key", "nginx refuses a word of more than 4096 bytes.", "Write a shorter key.")
    names = variables_in(key)
    if names is None:
        yield Remark("upstream.hash.key", "nginx refuses a $ that no variable's name follows.", remedy)
        return
    for name in names:
        if not is_variable(name):
            yield Remark("upstream.hash.key", f"${name} is no variable of every nginx from 1.22 on.", remedy)


def _hash_key_constant(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A key that is the same for all requests is one instance for all requests.
    if config.upstream.method is not Method.HASH:
        return
    names = variables_in(config.upstream.hash.key)
    if names is not None and all(re.fullmatch(EMPTY_VARIABLES, name) for name in names):
        why = "The key is the same for every request, so one instance gets them all."
        yield Remark("upstream.hash.key", why, "Use a variable that differs between requests, such as $request_uri.")


def _hash_ignored(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A key that has no effect.
    if "hash" in config.upstream.model_fields_set and config.upstream.method is not Method.HASH:
        why = f"The method is {config.upstream.method}, which hashes nothing of this."
        yield Remark("upstream.hash", why, "Set upstream.method to hash, or remove upstream.hash.")


def _hash_weights_heavy(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A reload gets slow.
    if HEAVY_WEIGHTS < _hashed_weight(config) <= LARGEST_WEIGHTS:
        yield _weights(config, "slow to check and to reload")


def _hash_weights_too_large(config: ClusterConfig, _facts: Facts) -> Remarks:
    # nginx takes minutes, or more memory than there is.
    if _hashed_weight(config) > LARGEST_WEIGHTS:
        yield _weights(config, "minutes of work, or refused for lack of memory,")


def _hashed_weight(config: ClusterConfig) -> int:
    upstream = config.upstream
    if upstream.method is not Method.HASH or not upstream.hash.consistent:
        return 0
    return sum(server.weight for server in upstream.servers)


def _weights(config: ClusterConfig, how: str) -> Remark:
    weight = _hashed_weight(config)
    size = weight * BYTES_PER_WEIGHT // 1024**2
    why = f"A consistent hash with weights of {weight} in all takes {size} MB of nginx and is {how} at every change."
    return Remark("upstream.servers", why, "Divide all weights by the same number, or set `hash: {consistent: false}`.")


def _ip_hash_few_addresses(config: ClusterConfig, _facts: Facts) -> Remarks:
    # The key is the first three octets of an IPv4 address.
    if config.upstream.method is Method.IP_HASH:
        why = "ip_hash sends all clients of one IPv4 network (three octets), or behind one proxy, to the same instance."
        remedy = "Sessions are shared, so no method needs to be sticky: consider round_robin or least_conn."
        yield Remark("upstream.method", why, remedy)


def _long_requests_by_turn(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Round robin does not see that an instance is busy; measured with one slow instance of four: 28 to 40 times.
    long = longest_wait(config)[1].seconds > LONG_REQUEST
    if config.upstream.method is Method.ROUND_ROBIN and len(serving(config)) > 1 and long:
        why = "Where requests may take long, round robin gives a busy instance its turn even so."
        yield Remark("upstream.method", why, "Consider `method: least_conn`.")


UPSTREAM_RULES = (
    Rule("duplicate-server", ERROR, "Two servers have the same name.", _duplicate_names),
    Rule("reserved-server-name", ERROR, "A server has a name that the platform has given away.", _reserved_names),
    Rule("backup-with-hash", ERROR, "nginx refuses `backup` with ip_hash, hash and random.", _backup_with_hash),
    Rule("only-backups", ERROR, "nginx refuses an upstream in which every server is a backup.", _all_backup),
    Rule("all-down", ERROR, "With every server down each request is answered with 502.", _all_down),
    Rule(
        "fail-timeout-milliseconds",
        ERROR,
        "nginx takes whole seconds only as fail_timeout.",
        _fail_timeout_milliseconds,
    ),
    Rule("hash-key-invalid", ERROR, "nginx refuses the hash key.", _hash_key_invalid),
    Rule(
        "hash-weights-too-large",
        ERROR,
        "A consistent hash over such weights needs gigabytes.",
        _hash_weights_too_large,
    ),
    Rule("backups-serve", WARNING, "Only backups are left to take the traffic.", _only_backups_serve),
    Rule("one-instance", WARNING, "With one instance a crash is an outage.", _one_instance),
    Rule(
        "limits-ignored", WARNING, "nginx ignores max_fails and fail_timeout of a lone server.", _limits_of_lone_server
    ),
    Rule("fail-timeout-alone", WARNING, "fail_timeout has no effect without max_fails.", _fail_timeout_alone),
    Rule(
        "last-server-fails",
        WARNING,
        "nginx passes over the last server that gets traffic, and answers 502 itself.",
        _last_serving_server,
    ),
    Rule("lopsided-shares", WARNING, "One of several servers takes more than 90 % of the traffic.", _lopsided_shares),
    Rule(
        "max-conns-everywhere",
        WARNING,
        "With max_conns on every server overload becomes errors.",
        _max_conns_everywhere,
    ),
    Rule(
        "keepalive-small",
        WARNING,
        "nginx keeps fewer idle connections than there are instances.",
        _keepalive_below_instances,
    ),
    Rule("hash-key-constant", WARNING, "The hash key sends every request to one instance.", _hash_key_constant),
    Rule("hash-ignored", WARNING, "upstream.hash is set though the method is another.", _hash_ignored),
    Rule("hash-weights-heavy", WARNING, "A consistent hash over such weights makes reloads slow.", _hash_weights_heavy),
    Rule("max-fails-everywhere", NOTE, "nginx may pass over all servers.", _max_fails_everywhere),
    Rule("down-ignores", NOTE, "weight and backup have no effect on a server that is down.", _ignored_by_down),
    Rule("backup-weight", NOTE, "The weight of the only backup has no effect.", _weight_of_lone_backup),
    Rule(
        "max-conns-below-threads",
        NOTE,
        "max_conns leaves threads of the instance idle.",
        _max_conns_below_threads,
    ),
    Rule("ip-hash-few-addresses", NOTE, "ip_hash treats whole networks as one client.", _ip_hash_few_addresses),
    Rule(
        "least-conn-hint",
        NOTE,
        "Round robin gives busy instances their turn where requests are long.",
        _long_requests_by_turn,
    ),
)
