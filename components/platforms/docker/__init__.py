"""Platform docker: images, containers, volumes and networks of one Docker engine."""

from cluster.docker.engine import Engine, Live
from components.platforms.docker.platform import Docker, Instances, MadeDatabase, Prepared, Site, Store

__all__ = ["Docker", "Engine", "Instances", "Live", "MadeDatabase", "Prepared", "Site", "Store"]
