#!/bin/sh
# start-nginx.sh SOCKET COMMAND…: runs nginx in the foreground.
# An nginx that was killed leaves its unix socket behind, and the next one can't bind to it.
set -eu
socket=$1
shift
rm -f -- "$socket"
exec "$@"
