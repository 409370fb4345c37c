"""A job that returns what its process has imported since it was forked."""

import os
import sys

from app.platform.jobs import JobContext, job

BY_BILLIARD = {"cffi", "pycparser"}  # to name the process, at its start
before: set[str] = set()
os.register_at_fork(after_in_child=lambda: before.update(sys.modules))


@job()
async def imported(context: JobContext) -> list[str]:
    names = {name.partition(".")[0] for name in set(sys.modules) - before}
    return sorted(names - sys.stdlib_module_names - BY_BILLIARD)
