"""Write the packages that services install, dependencies of dependencies too: ``make constraints``.

No project may have the name of one: uv refuses to install a project that depends on itself.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from extensions import answers, options
from tests import generator, toolbox

# For every system, and for the oldest Python that services support.
HOW = ("--universal", "--python-version", "3.11", "--no-header", "--no-annotate")


def resolved(project: Path, queue: str) -> set[str]:
    """Return the packages of every option beside one queue, on every system."""
    compiled = subprocess.run(
        [*toolbox.UV, "pip", "compile", "--quiet", *HOW, "-"],
        input="\n".join(toolbox.requirements(project, queue)),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {re.split(r"[=\[ ;]", line)[0] for line in compiled.splitlines()}


if __name__ == "__main__":
    queues = [option.choice for option in options.load() if option.question == "queue"]
    with tempfile.TemporaryDirectory() as folder:
        template = generator.copy_of_template(Path(folder, "template"))
        minimal = generator.render(template, Path(folder, "service"), preset="minimal")
        names = sorted(set().union(*(resolved(minimal, queue) for queue in queues)))
    answers.PACKAGES.write_text("\n".join(names) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(names)} packages\n")
