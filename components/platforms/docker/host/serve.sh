#!/bin/sh
# Lets the instance INSTANCE of a container take its name: CONTAINER, RELEASE, TURN. With ALONE=yes the containers that
# held it before are stopped at once, since memory is short.
set -eu
docker start "$CONTAINER" >/dev/null
docker exec "$CONTAINER" python -P -m cluster_runtime.instance serve --container --sockets /run/cluster \
    --instance "$INSTANCE" --release "$RELEASE" --turn "$TURN"
if [ "$ALONE" = yes ]; then
    docker ps --quiet --no-trunc --filter "label=django-cluster.stack=$STACK" \
        --filter "label=django-cluster.instance=$INSTANCE" | while read -r found; do
        if [ "$found" != "$CONTAINER" ]; then
            docker stop --time "$GRACE" "$found" >/dev/null
        fi
    done
fi
