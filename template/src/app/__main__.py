"""``python -m app``: the same commands as ``app``."""

from app.cli import main

if __name__ == "__main__":  # processes that a library starts import this module, too
    main()
