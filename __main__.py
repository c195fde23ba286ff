"""The stack that `pulumi up` makes: session store and database, the instances, the pool, nginx before them."""

import pulumi

from cluster.topology import build_topology
from components import (
    AppHosts,
    AppHostsArgs,
    Database,
    DatabaseArgs,
    NginxSite,
    NginxSiteArgs,
    SessionStore,
    SessionStoreArgs,
    UpstreamPool,
    UpstreamPoolArgs,
)
from components.program import open_program

program = open_program()
topology = build_topology(program.config)
platform = program.platform(topology)
release = program.release(topology)

sessions = SessionStore("sessions", SessionStoreArgs(topology=topology, platform=platform))
database = Database("database", DatabaseArgs(topology=topology, platform=platform))
hosts = AppHosts(
    "app",
    AppHostsArgs(topology=topology, release=release, sessions=sessions, database=database, platform=platform),
)
pool = UpstreamPool("upstream", UpstreamPoolArgs(topology=topology, hosts=hosts))
site = NginxSite("nginx", NginxSiteArgs(topology=topology, pool=pool, platform=platform))

pulumi.export("url", site.url)
pulumi.export("upstream", pool.servers)
pulumi.export("release", hosts.release)
pulumi.export("nginx", site.digest)
pulumi.export("sessions", sessions.engine)
