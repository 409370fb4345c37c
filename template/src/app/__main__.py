"""``python -m app``: the same commands as ``app``."""

from app.cli import main

main()
