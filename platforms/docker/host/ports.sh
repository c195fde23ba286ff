#!/bin/sh
# Sees that nobody else has the ports that nginx is to publish, before the former nginx goes: IMAGE, PORTS (ADDRESS:PORT,
# with /udp behind it where it is not TCP's), STACK, and NGINX_HOME, nginx's volume, which tells it from another
# checkout's stack of the same name.
set -eu
found=$(docker ps --quiet --filter "label=django-cluster.stack=$STACK" --filter label=django-cluster.role=nginx \
    --filter "volume=$NGINX_HOME")
ours=
each="{{range \$port, \$bound := .NetworkSettings.Ports}}{{range \$bound}}:{{.HostPort}}"
each="$each{{if eq (index (split (print \$port) \"/\") 1) \"udp\"}}/udp{{end}}: {{end}}{{end}}"
for nginx in $found; do
    # One a line: `docker ps` joins those that follow each other.
    ours="$ours $(docker inspect --format "$each" "$nginx")"
done
for port in $PORTS; do
    case $ours in
    *":${port##*:}:"*) continue ;;
    esac
    docker run --rm --read-only --cap-drop ALL --security-opt no-new-privileges:true --log-driver none --attach stderr \
        --label "django-cluster.stack=$STACK" --label django-cluster.role=task --publish "${port%/udp}:${port##*:}" \
        "$IMAGE" true
done
