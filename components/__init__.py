"""Pulumi component resources of a Django cluster: importable into any program.

`SessionStore` and `Database` → `AppHosts` → `UpstreamPool` → `NginxSite` is the order in which they depend on each
other; each hands the next one typed outputs. `DjangoCluster` is all five together. A program may have several of each,
and be in any directory.
"""

from components.app_hosts import AppHosts, AppHostsArgs
from components.database import Database, DatabaseArgs
from components.django_cluster import DjangoCluster, DjangoClusterArgs
from components.nginx_site import NginxSite, NginxSiteArgs
from components.session_store import SessionStore, SessionStoreArgs
from components.upstream_pool import UpstreamPool, UpstreamPoolArgs, UpstreamServer

__all__ = [
    "AppHosts",
    "AppHostsArgs",
    "Database",
    "DatabaseArgs",
    "DjangoCluster",
    "DjangoClusterArgs",
    "NginxSite",
    "NginxSiteArgs",
    "SessionStore",
    "SessionStoreArgs",
    "UpstreamPool",
    "UpstreamPoolArgs",
    "UpstreamServer",
]
