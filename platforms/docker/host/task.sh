#!/bin/sh
# Runs a task of a release in a container of its own, which is removed with it: the arguments and standard input are
# cluster_runtime.prepare's. IMAGE, STACK, NETWORK, MEMORY, and VOLUMES, as `docker run --volume` takes them.
set -eu
mounts=
for volume in $VOLUMES; do
    mounts="$mounts --volume $volume"
done
# shellcheck disable=SC2086 # a list of words
exec docker run --rm --interactive --network "$NETWORK" --read-only --tmpfs /tmp --cap-drop ALL \
    --security-opt no-new-privileges:true --memory "$MEMORY" --log-driver none \
    --attach stdin --attach stdout --attach stderr --label "django-cluster.stack=$STACK" --label django-cluster.role=task \
    $mounts "$IMAGE" python -P -m cluster_runtime.prepare "$@"
