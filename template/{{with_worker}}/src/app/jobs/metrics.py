"""What Prometheus is told of the jobs: how many wait and for how long, and how attempts end.

Waiting jobs are counted in the ledger, by whichever process is scraped: the same number everywhere,
so take the maximum over processes, not the sum. Attempts are counted by the worker that made them.
"""

from contextlib import contextmanager
def observe(name, outcome, seconds): pass
@contextmanager
def collecting(app): yield
