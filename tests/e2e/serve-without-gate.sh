#!/bin/sh
# Takes the name whether anybody is healthy or not.
set -eu
exec docker exec "$CONTAINER" python -P -c "
from cluster_runtime.instance_link import InstanceLink, process_of
InstanceLink('/run/cluster', '$INSTANCE').directory.mkdir(exist_ok=True)
InstanceLink('/run/cluster', '$INSTANCE').take(process_of('$RELEASE', container=True))"
