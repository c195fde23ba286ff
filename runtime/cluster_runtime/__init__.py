"""What runs beside a Django project in the cluster: the instance process, the settings overlay, health, sessions.

The package stands alone. It is copied into every release and imports nothing of the `cluster` tool, and no third-party
package but Django, gunicorn and (for sessions in memcached) pymemcache, all from the release's own environment.
"""
