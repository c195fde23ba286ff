#!/bin/sh
# Writes the secrets of a release (standard input: a JSON object) as files 0400 of the instances' user into a volume:
# IMAGE, SECRETS, SOCKETS, RELEASE, STACK. Each release has its own, since the former one is still read by who serves;
# the arguments are cluster_runtime.secret_files'.
set -eu
exec docker run --rm --interactive --network none --read-only --cap-drop ALL --cap-add CHOWN --cap-add DAC_OVERRIDE \
    --cap-add FOWNER --security-opt no-new-privileges:true --user 0:0 --log-driver none \
    --attach stdin --attach stdout --attach stderr --label "django-cluster.stack=$STACK" \
    --label django-cluster.role=task --volume "$SECRETS:/srv/secrets" --volume "$SOCKETS:/run/cluster:ro" \
    "$IMAGE" python -P -m cluster_runtime.secret_files "/srv/secrets/$RELEASE" --owner 10001 \
    --sockets /run/cluster "$@"
