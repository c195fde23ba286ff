#!/bin/sh
# Makes the database's password where there is none yet, inside a volume that only PostgreSQL and the instances have:
# IMAGE, SECRETS, STACK.
set -eu
exec docker run --rm --network none --read-only --cap-drop ALL --cap-add CHOWN --cap-add DAC_OVERRIDE \
    --cap-add FOWNER --security-opt no-new-privileges:true --user 0:0 --log-driver none --attach stderr \
    --label "django-cluster.stack=$STACK" --label django-cluster.role=task --volume "$SECRETS:/srv/database" \
    "$IMAGE" sh -euc '
        umask 0077
        cd /srv/database
        if [ ! -s password ]; then
            password=$(tr -dc a-z0-9 </dev/urandom | head -c 40)
            printf "postgres://cluster:%s@/cluster?host=/run/database" "$password" >url
            printf %s "$password" >password
        fi
        chmod 0400 url password
        chown 10001:10001 url
        chown 10003:10001 password'
