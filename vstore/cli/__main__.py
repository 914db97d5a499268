"""`python -m vstore.cli`: the same as the `vstore` command."""

from vstore.cli import main

if __name__ == "__main__":
    main()
