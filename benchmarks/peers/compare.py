"""This template's service against other templates' backends, measured on this machine, now.

    python benchmarks/peers/compare.py --full-stack PATH --benavlabs PATH --s3rius PATH

Each path is a checkout of that template; what is not given is left out. Everything is copied,
rendered and installed into build/peers, with a virtual environment for each and the same Python for
all (``--python``). Revisions that have been measured, and why: docs/performance.md.

The first run installs some hundred packages. Later runs reuse what is in build/peers: remove the
folder of a peer to set it up again.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "peers"
PEERS = ("full-stack", "benavlabs", "s3rius")


def run(*command: str | Path, cwd: Path, environment: dict[str, str]) -> None:
    print("$", *command, flush=True)
    subprocess.run(command, cwd=cwd, env=environment, check=True)


def install(name: str, source: Path, environment: dict[str, str]) -> None:
    """Install a peer as its own documentation does."""
    folder = BUILD / name
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".git", ".venv", "node_modules"))
    if name == "full-stack":
        (folder / "backend/app/frontend").mkdir(exist_ok=True)  # its image builds that
        sync = ("uv", "sync", "--frozen", "--no-dev", "--package", "app")
        run(*sync, cwd=folder, environment=environment)
        return
    run("uv", "sync", "--frozen", "--no-dev", cwd=folder, environment=environment)
    if name == "s3rius":  # a generator
        chosen = ("--db=postgresql", "--orm=sqlalchemy", "--api-type=rest", "--ci=none")
        # Without its Prometheus: that answers 500 to every request with today's FastAPI.
        flags = "quiet add_users jwt-auth cookie-auth dummy routers migrations loguru"
        options = (*chosen, *(f"--{flag}" for flag in flags.split()), "--name=peer")
        python = folder / ".venv/bin/python"
        # This installs what it generates, too.
        run(python, "-m", "fastapi_template", *options, cwd=folder, environment=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for peer in PEERS:
        parser.add_argument(f"--{peer}", metavar="PATH", type=Path)
    parser.add_argument("--python", default=sys.executable, help="the interpreter of all services")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    sources = {name: getattr(options, name.replace("-", "_")) for name in PEERS}

    environment = os.environ | {"UV_PYTHON": options.python}
    environment.pop("VIRTUAL_ENV", None)
    service = BUILD / "service"
    shutil.rmtree(service, ignore_errors=True)
    copy = ("copier", "copy", "--trust", "--defaults", "--quiet", "--vcs-ref", "HEAD")
    run(*copy, ROOT, service, cwd=ROOT, environment=environment)
    run("uv", "sync", "--quiet", cwd=service, environment=environment)
    # Peers were locked by their authors: the day to which our services resolve is not theirs.
    of_peers = {k: v for k, v in environment.items() if k != "UV_EXCLUDE_NEWER"}
    given = [name for name, source in sources.items() if source]
    for name in given:
        if not (BUILD / name).exists():
            try:
                install(name, sources[name], of_peers)
            except BaseException:
                shutil.rmtree(BUILD / name, ignore_errors=True)
                raise
    paths = os.pathsep.join([str(service), str(service / "benchmarks")])
    times = (f"--rounds={options.rounds}", f"--seconds={options.seconds}")
    run(
        service / ".venv/bin/python",
        "-P",  # `compare` is the service's, not this file
        HERE / "measure.py",
        BUILD,
        *given,
        *times,
        cwd=service,
        environment=environment | {"PYTHONPATH": paths},
    )


if __name__ == "__main__":
    main()
