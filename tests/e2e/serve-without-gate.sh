#!/bin/sh
# Takes the name whether anybody is healthy or not.
set -eu
exec docker exec "$CONTAINER" python -P -c "
from cluster_runtime.names import Name, process_of
Name('/run/cluster', '$INSTANCE').directory.mkdir(exist_ok=True)
Name('/run/cluster', '$INSTANCE').take(process_of('$RELEASE', container=True))"
