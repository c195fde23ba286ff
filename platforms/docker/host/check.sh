#!/bin/sh
# check DIRECTORY: takes a configuration of nginx's from standard input (a tar archive, as base64) into a directory that
# is gone afterwards, and lets nginx check it. nginx's own words go to standard error.
set -eu
directory=$1
mkdir "$directory"
trap 'rm -rf "$directory"' EXIT
base64 -d | tar -x -C "$directory"
nginx -t -q -p "$directory" -e stderr -c "$directory/nginx.conf"
