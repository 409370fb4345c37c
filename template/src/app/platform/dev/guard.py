"""The guard: a process that runs one command, and ends it when the guard's parent exits.

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
    kill_after: float = 10,
    folder: str | None = None,
    fds: Sequence[int] = (),
) -> list[str]:
    """The command line of a guard that runs `before`, one by one, and then `argv`.

    `stop`: the signal that asks the command to end; it is killed `kill_after` seconds later.
    `folder`: removed at the end. `fds`: what `argv` inherits. The guard writes the pid of `argv` as
    one line to stdout, the output of every command to stderr, and exits with their code.
    """
    spec = {
        "steps": [*map(list, before), list(argv)],
        "stop": int(stop),
        "kill_after": kill_after,
        "folder": folder,
        "fds": list(fds),
    }
    return [sys.executable, "-I", "-S", __file__, json.dumps(spec)]


def main(spec: dict[str, Any]) -> int:
    """Run what `command` specified."""
    wake = _wake_on(signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    *before, last = spec["steps"]
    try:
        for argv in before:
            if code := _wait(_start(argv, spec), wake, spec):
                return code
        process = _start(last, spec)
        with contextlib.suppress(BrokenPipeError):
            os.write(sys.stdout.fileno(), f"{process.pid}\n".encode())
        return _wait(process, wake, spec)
    except OSError as error:
        sys.stderr.write(f"{error.filename or 'guard'}: {error.strerror}\n")
        return 127
    finally:
        if spec["folder"]:
            shutil.rmtree(spec["folder"], ignore_errors=True)


def _wake_on(*signals: signal.Signals) -> int:
    """Return a pipe on which every one of `signals` arrives as a byte, to wait on with `select`."""
    wake, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in signals:
        signal.signal(number, lambda *_: None)
    return wake


def _start(argv: list[str], spec: dict[str, Any]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603
        argv,
        stdin=subprocess.DEVNULL,
        stdout=STDERR,
        process_group=0,
        pass_fds=spec["fds"],
        preexec_fn=_end_with_guard(spec["stop"]),
    )


def _end_with_guard(stop: int) -> Callable[[], object] | None:
    """On Linux, the command also ends if the guard is killed; elsewhere nothing ends it."""
    if sys.platform != "linux":
        return None
    libc, set_parent_death_signal = ctypes.CDLL(None), 1  # prctl's PR_SET_PDEATHSIG
    return lambda: libc.prctl(set_parent_death_signal, stop)


def _wait(process: "subprocess.Popen[bytes]", wake: int, spec: dict[str, Any]) -> int:
    """Wait until the command exits, by itself or because the guard was signalled."""
    watched, timeout = [STDIN, wake], None
    while process.poll() is None:
        ready = select.select(watched, [], [], timeout)[0]
        if not ready:
            _kill_group(process)
        elif STDIN in ready or set(os.read(wake, 64)) - {signal.SIGCHLD}:
            process.send_signal(spec["stop"])
            watched, timeout = [wake], spec["kill_after"]
    _kill_group(process)  # what it started and left behind
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
