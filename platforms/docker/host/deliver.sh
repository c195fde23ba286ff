#!/bin/sh
# Delivers nginx's configuration (standard input) into its container: NGINX, TURN, DIGEST, POLITE.
set -eu
docker start "$NGINX" >/dev/null
exec docker exec -i "$NGINX" /usr/local/lib/cluster/deliver "$TURN" "$DIGEST" "$POLITE"
