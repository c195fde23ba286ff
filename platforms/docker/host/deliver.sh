#!/bin/sh
# Delivers nginx's configuration (standard input, and PRIVATE and USERS, which nginx alone reads) into its container:
# NGINX, TURN, DIGEST, POLITE.
set -eu
docker start "$NGINX" >/dev/null
exec docker exec -i --env PRIVATE --env USERS "$NGINX" /usr/local/lib/cluster/deliver "$TURN" "$DIGEST" "$POLITE"
