"""The policy pack: `pulumi preview --policy-pack policy`, which `cluster plan` and `cluster up` say by themselves."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Answer the engine."""
    # Pulumi puts this directory before all others: what is here is called `policy.…`, and stands in no one's place.
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(one for one in sys.path if Path(one).resolve() != here)]
    from pulumi.runtime import get_config_env  # noqa: PLC0415 - as above

    from policy.pack import serve  # noqa: PLC0415

    serve(get_config_env())


main()
