#!/bin/sh
# Kills the former containers of the instance before its name is taken.
set -eu
docker ps --quiet --no-trunc --filter "label=django-cluster.stack=$STACK" \
    --filter "label=django-cluster.instance=$INSTANCE" | while read -r found; do
    if [ "$found" != "$CONTAINER" ]; then
        docker kill "$found" >/dev/null
    fi
done
exec docker exec "$CONTAINER" python -P -m cluster_runtime.instance serve --container --sockets /run/cluster \
    --instance "$INSTANCE" --release "$RELEASE"
