"""The program ``app``, and ``python -m app``."""

import gc


def main() -> None:
    """Run a command. Nothing is collected before its modules are imported: all of them stay."""
    gc.disable()  # a fifth of the CPU time of `app serve` until it serves
    from app import cli  # noqa: PLC0415 (after the line above)

    gc.freeze()
    gc.enable()
    cli.main()


if __name__ == "__main__":  # processes that a library starts import this module, too
    main()
