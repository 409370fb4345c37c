"""The guard: a process that watches over one command and ends it when its own parent is gone.

It runs as a script. Its stdin is a pipe whose other end only the parent holds: whichever way the
parent ends, `kill -9` included, the pipe closes, and the guard stops the command and removes its
throw-away folder. Start it in a session of its own, so that Ctrl-C reaches the parent alone.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

STDIN, STDERR = 0, 2


def command(
    argv: Sequence[str],
    *,
    before: Sequence[Sequence[str]] = (),
    stop: signal.Signals = signal.SIGTERM,
    patience: float = 10,
    folder: str | None = None,
) -> list[str]:
    """Return the command line of a guard that runs `before`, one by one, and then `argv`.

    `stop` is the signal that asks the command to end; it is killed when it has not done so
    `patience` seconds later. `folder` is removed at the end. The guard writes the pid of `argv` as
    one line to stdout, the output of every command to stderr, and exits with their code.
    """
    orders = {
        "steps": [*map(list, before), list(argv)],
        "stop": int(stop),
        "patience": patience,
        "folder": folder,
    }
    return [sys.executable, "-I", "-S", __file__, json.dumps(orders)]


def main(orders: dict[str, Any]) -> int:
    """Carry out the orders that `command` wrote down."""
    wake = _wake_on(signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    *before, last = orders["steps"]
    try:
        for argv in before:
            if code := _wait(_start(argv, orders["stop"]), wake, orders):
                return code
        process = _start(last, orders["stop"])
        with contextlib.suppress(BrokenPipeError):
            os.write(sys.stdout.fileno(), f"{process.pid}\n".encode())
        return _wait(process, wake, orders)
    except OSError as error:
        sys.stderr.write(f"{error.filename or 'guard'}: {error.strerror}\n")
        return 127
    finally:
        if orders["folder"]:
            shutil.rmtree(orders["folder"], ignore_errors=True)


def _wake_on(*signals: signal.Signals) -> int:
    """Return a pipe on which every one of `signals` arrives as a byte, to wait on with `select`."""
    wake, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in signals:
        signal.signal(number, lambda *_: None)
    return wake


def _start(argv: list[str], stop: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603
        argv,
        stdin=subprocess.DEVNULL,
        stdout=STDERR,
        process_group=0,
        preexec_fn=_end_with_guard(stop),
    )


def _end_with_guard(stop: int) -> Callable[[], object] | None:
    """Linux stops the command even when it is the guard that was killed; elsewhere nothing does."""
    if sys.platform != "linux":
        return None
    libc, set_parent_death_signal = ctypes.CDLL(None), 1  # prctl's PR_SET_PDEATHSIG
    return lambda: libc.prctl(set_parent_death_signal, stop)


def _wait(process: "subprocess.Popen[bytes]", wake: int, orders: dict[str, Any]) -> int:
    """Wait until the command ends, by itself or because the guard was told to stop it."""
    watched, timeout = [STDIN, wake], None
    while process.poll() is None:
        ready = select.select(watched, [], [], timeout)[0]
        if not ready:
            _kill_group(process)
        elif STDIN in ready or set(os.read(wake, 64)) - {signal.SIGCHLD}:
            process.send_signal(orders["stop"])
            watched, timeout = [wake], orders["patience"]
    _kill_group(process)  # what it started and left behind
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
