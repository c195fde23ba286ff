#!/bin/sh
# Runs a task of a release in a container of its own, which is removed with it: the arguments and standard input are
# cluster_runtime.prepare's. IMAGE, STACK, NETWORK, MEMORY, and VOLUMES, as `docker run --volume` takes them.
# After --once-healthy it first waits, in that container, until each of CONTAINERS, INSTANCE/CONTAINER of RELEASE, is in
# one of STATES, WAIT seconds at most; what they say of themselves is at RUN. That is asked of no program of the image but
# its shell: the release may be one of years ago. Where this script is killed, the container that waits ends. With
# SERVE=yes all of them then take their names, and what they have taken is printed, INSTANCE/PROCESS/GENERATION each; a
# release that can't do that prints nothing.
set -eu
environment=
if [ "$1" = --once-healthy ]; then
    shift
    environment="--env CONTAINERS --env RELEASE --env RUN --env STATES --env WAIT"
    for one in $CONTAINERS; do
        docker start "${one#*/}" >/dev/null # one that a failed `up` has stopped
    done
    if [ "${SERVE:-}" = yes ]; then
        CLUSTER_SOCKETS=$RUN CLUSTER_SERVE=
        for one in $CONTAINERS; do
            CLUSTER_SERVE="$CLUSTER_SERVE ${one%/*}/$RELEASE.${one#*/}"
        done
        export CLUSTER_SERVE CLUSTER_SOCKETS
        environment="$environment --env CLUSTER_SERVE --env CLUSTER_SOCKETS"
    fi
    held=$(mktemp -d)
    mkfifo "$held/open"
    exec 0<>"$held/open" # ends when this does, and not before
    rm -r "$held"
    # shellcheck disable=SC2016 # expanded in the container
    set -- sh -c '
exec 3<&0 </dev/null
gone=$(mktemp -d)/gone
{ cat <&3; : >"$gone"; } >/dev/null 2>&1 &
all_are_healthy() {
    for one in $CONTAINERS; do
        grep -qsE "\"state\": \"($STATES)\"" "$RUN/${one%/*}/$RELEASE.${one#*/}.json" || return 1
    done
}
left=$((WAIT * 10))
until all_are_healthy; do
    left=$((left - 1))
    if [ "$left" -le 0 ]; then
        echo "${one%/*}: release $RELEASE did not get healthy within $WAIT s" >&2
        exit 1
    fi
    [ ! -e "$gone" ] || exit 1
    sleep 0.1
done
[ ! -e "$gone" ] || exit 1
exec "$@" 3<&-' await python -P -m cluster_runtime.prepare "$@"
else
    set -- python -P -m cluster_runtime.prepare "$@"
fi
mounts=
for volume in $VOLUMES; do
    mounts="$mounts --volume $volume"
done
# shellcheck disable=SC2086 # lists of words
exec docker run --rm --interactive --network "$NETWORK" --read-only --tmpfs /tmp --cap-drop ALL \
    --security-opt no-new-privileges:true --memory "$MEMORY" --log-driver none \
    --attach stdin --attach stdout --attach stderr --label "django-cluster.stack=$STACK" --label django-cluster.role=task \
    $environment $mounts "$IMAGE" "$@"
