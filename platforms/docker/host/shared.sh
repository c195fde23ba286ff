#!/bin/sh
# Makes what a project writes, where the volume VOLUME has it not yet, of what the project holds there: pairs of a path
# from the project's directory PROJECT, and of one below SHARED in the volume. IMAGE, STACK.
set -eu
run() {
    docker run --rm --interactive --network none --read-only --cap-drop ALL --security-opt no-new-privileges:true \
        --log-driver none --attach stdin --attach stdout --attach stderr \
        --label "django-cluster.stack=$STACK" --label django-cluster.role=task \
        --volume "$VOLUME:$SHARED" --workdir "$SHARED" "$IMAGE" "$@"
}
while [ $# -gt 0 ]; do
    path=$1 place=$2
    shift 2
    held=$PROJECT/$path
    directory=${place%%/*}
    # Unpacked beside its place and put there at the end: one that was interrupted is begun anew.
    # shellcheck disable=SC2016 # the container's shell reads it
    unpack='set -eu; [ ! -e "$1" ] || exit 0; rm -rf ".$1.new"; mkdir -m 0750 ".$1.new"; tar -x -C ".$1.new"; mv ".$1.new" "$1"'
    if [ -d "$held" ]; then
        tar -c -C "$held" . | run sh -c "$unpack" sh "$directory"
    elif [ -f "$held" ]; then
        tar -c -C "$(dirname "$held")" "$(basename "$held")" | run sh -c "$unpack" sh "$directory"
    else
        run sh -c 'mkdir -p -m 0750 "$1"' sh "$directory" </dev/null
    fi
done
