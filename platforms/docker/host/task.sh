#!/bin/sh
# Runs a task of a release in a container of its own, which is removed with it: the arguments and standard input are
# cluster_runtime.prepare's. IMAGE, STACK, NETWORK, MEMORY, and VOLUMES, as `docker run --volume` takes them.
# After --once-healthy it first waits, in that container, until the instances of RELEASE that run are in one of STATES,
# WAIT seconds at most; they mount SOCKETS, which it has at RUN. That is asked of no program of the image but its shell:
# the release may be one of years ago.
set -eu
environment=
if [ "$1" = --once-healthy ]; then
    shift
    AWAITED=
    export AWAITED
    environment="--env AWAITED --env RELEASE --env RUN --env STATES --env WAIT"
    found=$(docker ps --filter "label=django-cluster.stack=$STACK" --filter "label=django-cluster.release=$RELEASE" \
        --filter label=django-cluster.role=instance --filter "volume=$SOCKETS" \
        --format '{{.Label "django-cluster.instance"}}/{{.ID}}')
    for one in $found; do # the newest first: an older one of the same name was left by a killed run
        case " $AWAITED" in *" ${one%/*}/"*) ;; *) AWAITED="$AWAITED$one " ;; esac
    done
    if [ -z "$AWAITED" ]; then
        echo "no instance of release $RELEASE runs" >&2
        exit 1
    fi
    # shellcheck disable=SC2016 # expanded in the container
    set -- sh -c '
left=$((WAIT * 10))
for one in $AWAITED; do
    status="$RUN/${one%/*}/$RELEASE.${one#*/}.json"
    until grep -qsE "\"state\": \"($STATES)\"" "$status"; do
        left=$((left - 1))
        if [ "$left" -le 0 ]; then
            echo "${one%/*}: release $RELEASE did not get healthy within $WAIT s" >&2
            exit 1
        fi
        sleep 0.1
    done
done
exec "$@"' await python -P -m cluster_runtime.prepare "$@"
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
