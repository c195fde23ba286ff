#!/bin/sh
# Lets the instance INSTANCE of a container take its name, as soon as it is healthy: CONTAINER, RELEASE, TURN, WAIT. With
# ALONE=yes the containers that held it before (they mount SOCKETS) are stopped at once, since memory is short. Nothing is
# to be done where SERVED says that this process has the name in this TURN already.
set -eu
if [ "$SERVED" = "$INSTANCE/$RELEASE.$(printf %.12s "$CONTAINER")/$TURN" ]; then
    exit 0
fi
docker start "$CONTAINER" >/dev/null
docker exec "$CONTAINER" python -P -m cluster_runtime.instance serve --container --sockets /run/cluster \
    --instance "$INSTANCE" --release "$RELEASE" --turn "$TURN" --wait "$WAIT"
if [ "$ALONE" = yes ]; then
    found=$(docker ps --quiet --no-trunc --filter "label=django-cluster.stack=$STACK" \
        --filter "label=django-cluster.instance=$INSTANCE" --filter "volume=$SOCKETS")
    for one in $found; do
        if [ "$one" != "$CONTAINER" ]; then
            docker stop --time "$GRACE" "$one" >/dev/null
        fi
    done
fi
