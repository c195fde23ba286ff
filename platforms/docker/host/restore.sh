#!/bin/sh
# Waits until a memcached node that has begun with nothing holds what it should: STACK, NODE. Instances that serve give
# it to it; where none serves, there is nothing to wait for.
set -eu
tries=0
while [ "$tries" -lt 60 ]; do
    found=$(docker ps --quiet --filter "label=django-cluster.stack=$STACK" --filter "label=django-cluster.role=nginx")
    nginx=${found%%[!0-9a-f]*}
    if [ -z "$nginx" ]; then
        exit 0
    fi
    case $(docker exec "$nginx" /usr/local/lib/cluster/ask /-/probe/restore) in
    *'"restored": true'*) exit 0 ;;
    *'"restored": false'*) ;;
    *)
        if [ "$tries" -ge 20 ]; then
            exit 0
        fi
        ;;
    esac
    tries=$((tries + 1))
    sleep 1
done
echo "a memcached node ($NODE) was started again and does not get its sessions from the other one; that is left as it is" >&2
exit 1
