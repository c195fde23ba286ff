"""What of a stack runs on its engine, as rows that a person or a program reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.docker.engine import INSTANCE_LABEL, RELEASE_LABEL, ROLE_LABEL, Engine, Live
from cluster.docker.places import nginx_config

if TYPE_CHECKING:
    from cluster.topology import Topology

#: Digits of a container's id that are its host name.
SHORT_ID = 12


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A stack as it is: `containers` by what `docker inspect` says, `live` as nginx and the instances say."""

    live: Live
    containers: tuple[dict[str, Any], ...]
    topology: Topology

    @property
    def nginx_current(self) -> bool:
        """Whether nginx runs what the stack file says."""
        return self.live.nginx == nginx_config(self.topology).digest

    @property
    def release(self) -> str | None:
        """The release that serves: the one that every instance's name leads to, else None."""
        held = {release_of(self.live.holders.get(name)) for name in self.topology.names}
        return held.pop() if len(held) == 1 else None

    def of(self, role: str) -> list[dict[str, Any]]:
        """Return the containers of a role."""
        return [c for c in self.containers if c["Config"]["Labels"].get(ROLE_LABEL) == role]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row an instance."""
        return [self._row(name) for name in self.topology.names]

    def _row(self, name: str) -> dict[str, Any]:
        holder = self.live.holders.get(name)
        processes = []
        for container in self.of("instance"):
            labels = container["Config"]["Labels"]
            if labels.get(INSTANCE_LABEL) != name:
                continue
            release, short = labels[RELEASE_LABEL], container["Id"][:SHORT_ID]
            status = self.live.statuses.get((name, f"{release}.{short}"))
            running = container["State"]["Running"] and status is not None
            processes.append(
                {
                    "release": release,
                    "state": status.get("state", "") if running and status else container["State"]["Status"],
                    "since": status.get("since") if running and status else None,
                    "container": short,
                    "pid": container["State"]["Pid"],
                    "message": status.get("message", "") if status else "",
                    "sessions": status.get("sessions") if status else None,
                }
            )
        serving = [f"{p['release']}.{p['container']}" for p in processes if p["state"] == "serving"]
        return {
            "instance": name,
            "share": round(float(self.topology.instance(name).share), 6),
            "release": release_of(holder),
            "ok": len(processes) == 1 and serving == [holder],
            "processes": processes,
        }

    def services(self) -> list[dict[str, Any]]:
        """Return a row for nginx and each memcached node and database."""
        rows = []
        for container in self.containers:
            role = container["Config"]["Labels"].get(ROLE_LABEL, "")
            if role in ("instance", "task"):
                continue
            state = container["State"]
            health = state.get("Health", {}).get("Status", state["Status"])
            rows.append({"service": role, "state": health, "ok": state["Running"] and health in ("healthy", "running")})
        return sorted(rows, key=lambda row: str(row["service"]))


def release_of(process: str | None) -> str | None:
    """Return the release of a process that calls its files `release.container`."""
    return None if process is None else process.partition(".")[0]


def observe(engine: Engine, stack: str, topology: Topology) -> Observed:
    """Look at everything that runs; EngineError where the engine is away."""
    containers = engine.inspect(engine.containers(stack, stopped=True))
    return Observed(live=engine.live(stack), containers=tuple(containers), topology=topology)
