"""`python -m cluster` is `cluster`."""

from cli import main

if __name__ == "__main__":
    main()
