"""Platform docker: images, containers, volumes and networks of one Docker engine."""

from components.platforms.docker.platform import Docker, Instances, MadeDatabase, Prepared, Site, Store
from platforms.docker.engine import Engine, Live

__all__ = ["Docker", "Engine", "Instances", "Live", "MadeDatabase", "Prepared", "Site", "Store"]
