#!/bin/sh
# Sees that the PostgreSQL of an image can read the data that are there, before it takes the place of the one that does:
# IMAGE, DATA, STACK.
set -eu
exec docker run --rm --network none --read-only --cap-drop ALL --security-opt no-new-privileges:true \
    --user 10003:10001 --log-driver none --attach stderr --label "django-cluster.stack=$STACK" \
    --label django-cluster.role=task --volume "$DATA:/var/lib/cluster" "$IMAGE" /usr/local/lib/cluster/start --check
