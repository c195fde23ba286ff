#!/bin/sh
# start-nginx.sh SOCKET COMMAND…: runs nginx in the foreground.
# cluster/local/start-nginx.sh leads here: Supervisor starts the nginx of a cluster that a former version brought up by it.
# An nginx that was killed leaves its unix socket behind, and the next one can't bind to it.
set -eu
socket=$1
shift
rm -f -- "$socket"
exec "$@"
