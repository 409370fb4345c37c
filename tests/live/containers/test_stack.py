"""The default service's compose stack: order, hardening, the service through it, signals, kills."""

import threading
import time
from collections import Counter

import pytest

from .service import Answer, Stack, until


def test_starts_in_order(stack: Stack) -> None:
    containers = stack.containers(stopped=True)
    state = {name: facts["State"] for name, facts in containers.items()}
    assert state["migrate"]["ExitCode"] == 0
    for name in ("postgres", "redis"):
        assert _ready(stack, name) < state["migrate"]["StartedAt"], name
    ours = {name for name, facts in containers.items() if facts["Config"]["Image"] == stack.image}
    for name in ours - {"migrate"}:
        assert state["migrate"]["FinishedAt"] < state[name]["StartedAt"], name


def _ready(stack: Stack, service: str) -> str:
    """Return when a server said that it takes connections, as ``docker inspect`` writes times."""
    log = stack.compose("logs", "--timestamps", "--no-log-prefix", service)
    lines = [line for line in log.splitlines() if "ready to accept connections" in line.lower()]
    return lines[-1].split()[0]


def test_every_container_is_healthy(stack: Stack) -> None:
    containers = stack.containers()
    health = {name: facts["State"]["Health"]["Status"] for name, facts in containers.items()}
    assert {"api", "worker", "postgres", "redis"} <= health.keys()
    assert set(health.values()) == {"healthy"}, health


def test_every_process_is_confined(stack: Stack) -> None:
    containers = stack.containers()
    del containers["collector"]  # the tests' own
    for name, facts in containers.items():
        status = stack.execute(name, "cat", "/proc/1/status")
        process = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert process["Uid"].split()[0] != "0", name
        assert int(process["CapEff"], 16) == int(process["CapBnd"], 16) == 0, name
        assert process["NoNewPrivs"] == "1", name
        with pytest.raises(RuntimeError, match="Read-only file system"):
            stack.execute(name, "touch", "/etc/written")
        assert facts["HostConfig"]["Memory"] > 0, name
        assert facts["HostConfig"]["PidsLimit"] > 0, name


def test_only_the_loopback_interface_is_published(stack: Stack) -> None:
    published = {
        (name, binding["HostIp"])
        for name, facts in stack.containers().items()
        for bindings in facts["NetworkSettings"]["Ports"].values()
        for binding in bindings or ()
    }
    assert published == {("api", "127.0.0.1")}


def test_no_secret_is_in_the_environment(stack: Stack) -> None:
    there = (path.read_text() for path in (stack.project / ".secrets").glob("[!.]*"))
    secrets = [secret for secret in there if secret]  # some are empty until others give them
    for name, facts in stack.containers(stopped=True).items():
        environment = "\n".join(facts["Config"]["Env"] or ())
        assert not any(secret in environment for secret in secrets), name


def test_a_user_gets_a_job_done(stack: Stack, token: str) -> None:
    created = stack.ask("POST", "/api/v1/items", {"name": "Anvil"}, token)
    assert created.status == 201, created.body
    accepted = stack.ask("POST", "/api/v1/items/export", {}, token)
    assert accepted.status == 202, accepted.body

    def finished() -> Answer | None:
        answer = stack.ask("GET", accepted.headers["location"], token=token)
        return answer if answer.body["status"] not in ("queued", "running") else None

    assert until(finished, 60).body["status"] == "succeeded"

    def spans() -> bool:
        log = stack.compose("logs", "--no-log-prefix", "collector")
        return "/api/v1/items/export" in log and "items.export" in log.replace("/export", "")

    until(spans, 30)


def test_a_killed_worker_process_is_replaced(stack: Stack) -> None:
    before = _children(stack, "api")
    assert len(before) == 2
    stack.execute("api", "python", "-c", f"import os; os.kill({min(before)}, 9)")
    after = until(lambda: (now := _children(stack, "api")) - before and now, 10)
    assert len(after) == 2
    assert stack.ask("GET", "/health/ready").status == 200


def _children(stack: Stack, service: str) -> set[str]:
    """Return the process ids of the children of the container's first process."""
    return set(stack.execute(service, "cat", "/proc/1/task/1/children").split())


def test_sigterm_under_load_loses_no_request(stack: Stack, token: str) -> None:
    outcomes: Counter[str] = Counter()
    draining = threading.Event()

    def client() -> None:
        while not draining.is_set():
            try:
                answer = stack.ask("GET", "/api/v1/items", token=token)
                outcomes[str(answer.status)] += 1
            except OSError as error:
                outcomes[repr(error)] += 1

    def balancer() -> None:
        """Send no more requests once the service says that it is not ready."""
        while stack.ask("GET", "/health/ready").status == 200:
            time.sleep(0.2)
        draining.set()

    threads = [threading.Thread(target=target) for target in [client] * 8 + [balancer]]
    for thread in threads:
        thread.start()
    try:
        until(lambda: outcomes.total() > 50, 30)
        stack.compose("stop", "api")
    finally:
        draining.set()
        for thread in threads:
            thread.join()
        stopped = stack.containers(stopped=True)["api"]["State"]
        stack.compose("start", "api")
        until(lambda: _is_ready(stack), 60)
    assert stopped["ExitCode"] == 0
    assert outcomes.keys() == {"200"}, outcomes


def _is_ready(stack: Stack) -> bool:
    try:
        return stack.ask("GET", "/health/ready").status == 200
    except OSError:
        return False


def test_companions_end_by_themselves_when_asked(stack: Stack) -> None:
    try:
        stack.compose("stop", "worker")
        stopped = stack.containers(stopped=True)
        codes = {name: stopped[name]["State"]["ExitCode"] for name in ("worker",)}
        assert codes == {"worker": 0}
    finally:
        stack.compose("start", "worker")
