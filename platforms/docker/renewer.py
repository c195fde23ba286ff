"""What keeps the site's certificate by ACME, in a container beside nginx."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pulumi
from pulumi_command import local

from cluster.services import Kind
from cluster.tls.renewing import wanted
from platforms.docker import scripts
from platforms.docker.container_paths import ACCOUNT, ACME
from platforms.docker.containers import Mount

if TYPE_CHECKING:
    import pulumi_docker as docker

    from cluster.tls.renewing import Account
    from cluster.topology import Topology
    from platforms.docker.family import Family


def start_renewer(
    topology: Topology, network: pulumi.Input[str], own: Family, account: Account | None
) -> tuple[list[docker.Container], tuple[Mount, ...]]:
    """Start what keeps the site's certificate by ACME; return it, and where that is. Nothing where it has none."""
    services = topology.of_kind(Kind.ACME)
    # There whatever the certificate is: what is protected can't come and go, and authorities give few a week.
    certificates = own.volume("acme", protect=True)
    if not services or account is None:
        return [], ()
    (service,), config = services, topology.config
    image = own.renewer_image(service, config)
    place = own.volume("acme-account")
    key = account.key
    if account.eab_key:  # in a line of its own, also where Pulumi's configuration took the key's last line end
        key = f"{key.rstrip()}\n# binding {account.eab_key}\n"
    kept = Mount(volume=certificates.name, path=ACME)
    given = own.command(
        "acme-account-given",
        scripts.script("account.sh"),
        stdin=pulumi.Output.secret(key),
        environment={"IMAGE": image, "ACCOUNT": place.name, "TRUSTED": account.trusted},
        logging=local.Logging.NONE,
    )
    asked = wanted(
        config,
        account=f"{ACCOUNT}/account.key",
        trusted=f"{ACCOUNT}/ca.pem",
        eab_key=f"{ACCOUNT}/eab.key",
        asked=(topology.of_kind(Kind.NGINX)[0].name, config.site.listen),
    )
    assert asked is not None  # noqa: S101 - there is a service of it
    renewer = own.service(
        service,
        image=image,
        mounts=(kept, Mount(volume=place.name, path=ACCOUNT, read_only=True)),
        network=network,
        after=[given],
        words=(asked.text, ACME),
    )
    return [renewer], (kept,)
