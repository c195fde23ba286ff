"""`python -m cluster` is `cluster`."""

import gc
import sys

# What a command imports stays, and it ends soon: to look through all that for garbage takes a tenth of its time.
gc.set_threshold(100_000)

from platforms.registry import begin_early  # noqa: E402 - above, it would be looked through

if __name__ == "__main__":
    begin_early(sys.argv[1:])

from cli import main  # noqa: E402 - which takes its time

if __name__ == "__main__":
    try:
        main()
    finally:
        gc.freeze()  # nor at the end
