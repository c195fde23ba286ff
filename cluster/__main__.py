"""`python -m cluster` is `cluster`."""

import gc

# What a command imports stays, and it ends soon: to look through all that for garbage takes a tenth of its time.
gc.set_threshold(100_000)

from cli import main  # noqa: E402 - above, it would be looked through

if __name__ == "__main__":
    try:
        main()
    finally:
        gc.freeze()  # nor at the end
