"""The jobs of the tests, with billiard's default of macOS: child processes are spawned."""

from billiard import set_start_method

from tests.platform.jobs import samples as samples

set_start_method("spawn")
