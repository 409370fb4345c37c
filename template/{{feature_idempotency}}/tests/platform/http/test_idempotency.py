"""Idempotency keys: a repeated request takes effect once, and gets the first response again."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import uuid4

import httpx2
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Form, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.platform.base.errors import NotFound
from app.platform.data import idempotency_keys
from app.platform.data.database import DatabaseDep, SessionDep, on_commit
from app.platform.http import idempotency, routing
from app.platform.http.idempotency import idempotent
from app.platform.http.problems import DEFAULT_RESPONSES
from app.platform.http.schemas import RequestModel
from app.settings import Settings
from tests.conftest import client_for, running_platform

SETTINGS = {"db_pool_size": 4, "db_max_overflow": 0, "idempotency_wait": 0.3}
SETTINGS |= {"idempotency_max_response_size": 1000}


class Payment(RequestModel):
    amount: int


async def caller(request: Request) -> str:
    return request.headers.get("x-caller", "ada")


class Routes:
    """Routes that add payments, and what they saw."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()
        self.done: list[str] = []

    async def pay(self, data: Payment, session: SessionDep, response: Response) -> dict[str, Any]:
        number = await insert(session, data.amount)
        response.headers["Location"] = f"/payments/{number}"
        response.set_cookie("secret", "of the first client")
        return {"number": number, "amount": data.amount}

    async def fail(self, data: Payment, session: SessionDep) -> None:
        await insert(session, data.amount)
        raise NotFound("No such account.")

    async def crash(self, data: Payment, session: SessionDep) -> None:
        await insert(session, data.amount)
        raise RuntimeError

    async def refuse(self, data: Payment, session: SessionDep) -> JSONResponse:
        return JSONResponse({"number": await insert(session, data.amount)}, 409)

    async def large(self, session: SessionDep) -> str:
        return "x" * 2000 + str(await insert(session, 1))

    async def stream(self, session: SessionDep) -> Response:
        await insert(session, 1)

        async def parts() -> AsyncIterator[str]:
            yield "part"

        return StreamingResponse(parts())

    async def tasks(self, session: SessionDep, tasks: BackgroundTasks) -> int:
        async def note(text: str) -> None:
            self.done.append(text)

        on_commit(session, lambda: note("commit"))
        tasks.add_task(note, "task")
        return await insert(session, 1)

    async def wait(self, session: SessionDep) -> int:
        number = await insert(session, 1)
        self.entered.set()
        await self.leave.wait()
        return number

    async def locks(self, session: SessionDep) -> str:
        timeout: str = (await session.execute(text("SHOW lock_timeout"))).scalar_one()
        return timeout

    async def second(self, database: DatabaseDep) -> int:
        async with database.transaction() as session:
            return await insert(session, 1)


async def insert(session: Any, amount: int) -> int:
    statement = text("INSERT INTO payments_of_a_test (amount) VALUES (:amount) RETURNING number")
    number: int = (await session.execute(statement, {"amount": amount})).scalar_one()
    return number


@pytest.fixture(scope="module")
async def shared(module_settings: Settings) -> AsyncIterator[FastAPI]:
    async with running_platform(module_settings.model_copy(update=SETTINGS)) as app:
        async with app.state.db.transaction() as session:
            await session.execute(
                text("CREATE TABLE payments_of_a_test (number serial, amount int)")
            )
        app.state.routes = Routes()
        router = APIRouter(prefix="/test", route_class=idempotent(by=caller))
        for name in ("pay", "fail", "crash", "refuse", "large", "stream", "tasks", "wait"):
            router.add_api_route(f"/{name}", getattr(app.state.routes, name), methods=["POST"])
        router.add_api_route("/locks", app.state.routes.locks, methods=["POST"])
        router.add_api_route("/second", app.state.routes.second, methods=["POST"])
        router.add_api_route("/pay", app.state.routes.pay, methods=["PUT"])
        strict = APIRouter(prefix="/strict", route_class=idempotent(by=caller, required=True))
        strict.add_api_route("/pay", app.state.routes.pay, methods=["POST"], status_code=201)
        app.include_router(router)
        app.include_router(strict)
        routing.install_index(app)
        yield app


@pytest.fixture
async def routes(shared: FastAPI) -> Routes:
    routes: Routes = shared.state.routes
    routes.entered.clear()
    routes.leave.clear()
    routes.done.clear()
    async with shared.state.db.transaction() as session:
        await session.execute(text("TRUNCATE payments_of_a_test, idempotency_keys"))
    return routes


@pytest.fixture
async def client(shared: FastAPI, routes: Routes) -> AsyncIterator[httpx2.AsyncClient]:
    async with client_for(shared) as client:
        client.headers["Idempotency-Key"] = str(uuid4())
        yield client


async def count(app: FastAPI, table: str = "payments_of_a_test") -> int:
    async with app.state.db.engine.connect() as connection:
        number: int = (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one()
    return number


async def test_a_repeated_request_gets_the_first_response_byte_for_byte(
    client: httpx2.AsyncClient, shared: FastAPI
) -> None:
    first, second = [await client.post("/test/pay", json={"amount": 7}) for _ in range(2)]
    assert (first.status_code, second.status_code) == (200, 200)
    assert second.content == first.content
    same = ("content-type", "content-length", "location", "cache-control")
    assert [second.headers.get(name) for name in same] == [first.headers.get(n) for n in same]
    assert second.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["X-Request-ID"] != first.headers["X-Request-ID"]
    assert await count(shared) == 1


async def test_cookies_are_not_stored(client: httpx2.AsyncClient, shared: FastAPI) -> None:
    first, second = [await client.post("/test/pay", json={"amount": 7}) for _ in range(2)]
    assert "set-cookie" in first.headers
    assert "set-cookie" not in second.headers
    async with shared.state.db.engine.connect() as connection:
        row = (await connection.execute(text("SELECT headers::text FROM idempotency_keys"))).one()
    assert "secret" not in row[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"json": {"amount": 8}},
        {"content": '{"amount":  7}', "headers": {"Content-Type": "application/json"}},
        {"json": {"amount": 7}, "params": {"page": "1"}},
        {"json": {"amount": 7}, "url": "/test/refuse"},
    ],
    ids=["body", "bytes of the body", "query", "path"],
)
async def test_another_request_with_the_key_is_refused(
    client: httpx2.AsyncClient, shared: FastAPI, changes: dict[str, Any]
) -> None:
    await client.post("/test/pay", json={"amount": 7})
    response = await client.post(**{"url": "/test/pay", **changes})
    assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")
    assert await count(shared) == 1


async def test_a_key_belongs_to_its_caller(client: httpx2.AsyncClient, shared: FastAPI) -> None:
    ada, bob = [
        await client.post("/test/pay", json={"amount": 7}, headers={"X-Caller": name})
        for name in ("ada", "bob")
    ]
    assert (ada.status_code, bob.status_code) == (200, 200)
    assert ada.json() != bob.json()
    assert await count(shared) == 2


@pytest.mark.parametrize(
    ("path", "status"), [("fail", 404), ("crash", 500), ("pay?x", 422)], ids=["4xx", "5xx", "422"]
)
async def test_a_request_that_rolled_back_leaves_no_key(
    client: httpx2.AsyncClient, shared: FastAPI, path: str, status: int
) -> None:
    body = {"amount": "many" if status == 422 else 7}
    for _ in range(2):
        response = await client.post(f"/test/{path}", json=body)
        assert response.status_code == status
        assert "Idempotency-Replayed" not in response.headers
    assert (await count(shared), await count(shared, "idempotency_keys")) == (0, 0)
    assert (await client.post("/test/pay", json={"amount": 7})).status_code == 200


async def test_an_error_that_the_route_returns_is_repeated_as_its_change_is_committed(
    client: httpx2.AsyncClient, shared: FastAPI
) -> None:
    first, second = [await client.post("/test/refuse", json={"amount": 7}) for _ in range(2)]
    assert (first.status_code, second.status_code) == (409, 409)
    assert second.content == first.content
    assert await count(shared) == 1


async def test_a_request_without_a_key_is_handled_each_time(
    client: httpx2.AsyncClient, shared: FastAPI
) -> None:
    del client.headers["Idempotency-Key"]
    first, second = [await client.post("/test/pay", json={"amount": 7}) for _ in range(2)]
    assert first.json() != second.json()
    assert await count(shared, "idempotency_keys") == 0


async def test_a_route_can_require_the_key(client: httpx2.AsyncClient, shared: FastAPI) -> None:
    assert (await client.post("/strict/pay", json={"amount": 7})).status_code == 201
    del client.headers["Idempotency-Key"]
    response = await client.post("/strict/pay", json={"amount": 7})
    assert (response.status_code, response.json()["code"]) == (400, "idempotency_key_missing")
    assert await count(shared) == 1


@pytest.mark.parametrize(
    "key", ["", " ", '""', '"open', "two,keys", "x" * 256, '"' + "x" * 256 + '"', "a b", "ключ"]
)
async def test_an_invalid_key_is_refused(client: httpx2.AsyncClient, key: str) -> None:
    headers = [(b"Idempotency-Key", key.encode())]
    del client.headers["Idempotency-Key"]
    response = await client.post("/test/pay", json={"amount": 7}, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "idempotency_key_invalid")


async def test_two_keys_are_refused(client: httpx2.AsyncClient) -> None:
    del client.headers["Idempotency-Key"]
    headers = [("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
    response = await client.post("/test/pay", json={"amount": 7}, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "idempotency_key_invalid")


async def test_a_key_is_the_same_with_and_without_quotes(client: httpx2.AsyncClient) -> None:
    bare, quoted = [
        await client.post("/test/pay", json={"amount": 7}, headers={"Idempotency-Key": key})
        for key in ("the-key", '"the-key"')
    ]
    assert quoted.content == bare.content
    assert quoted.headers["Idempotency-Replayed"] == "true"


async def test_other_methods_ignore_the_key(client: httpx2.AsyncClient, shared: FastAPI) -> None:
    for _ in range(2):
        assert (await client.put("/test/pay", json={"amount": 7})).status_code == 200
    assert (await count(shared), await count(shared, "idempotency_keys")) == (2, 0)


async def test_concurrent_duplicates_wait_for_the_first_and_get_its_response(
    client: httpx2.AsyncClient, shared: FastAPI, routes: Routes
) -> None:
    first = asyncio.create_task(client.post("/test/wait"))
    await routes.entered.wait()
    others = [asyncio.create_task(client.post("/test/wait")) for _ in range(2)]
    await until_waiting(shared, 2)
    routes.leave.set()
    responses = [await first, *await asyncio.gather(*others)]
    assert [each.status_code for each in responses] == [200] * 3
    assert len({each.content for each in responses}) == 1
    assert await count(shared) == 1


async def test_a_duplicate_that_has_waited_long_enough_is_answered_with_409(
    client: httpx2.AsyncClient, shared: FastAPI, routes: Routes
) -> None:
    first = asyncio.create_task(client.post("/test/wait"))
    await routes.entered.wait()
    response = await client.post("/test/wait")
    assert (response.status_code, response.json()["code"]) == (409, "idempotency_key_in_use")
    assert response.headers["Retry-After"] == "1"
    routes.leave.set()
    assert (await client.post("/test/wait")).content == (await first).content
    assert await count(shared) == 1


async def test_a_duplicate_runs_if_the_first_request_is_cancelled(
    client: httpx2.AsyncClient, shared: FastAPI, routes: Routes
) -> None:
    first = asyncio.create_task(client.post("/test/wait"))
    await routes.entered.wait()
    second = asyncio.create_task(client.post("/test/wait"))
    await until_waiting(shared, 1)
    first.cancel()
    routes.leave.set()
    response = await second
    assert response.status_code == 200
    assert "Idempotency-Replayed" not in response.headers
    assert await count(shared) == 1


async def until_waiting(app: FastAPI, number: int) -> None:
    """Wait until so many transactions wait for another one."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
    async with asyncio.timeout(5), app.state.db.engine.connect() as connection:
        while (await connection.execute(text(waiting))).scalar_one() != number:  # noqa: ASYNC110 (no event)
            await asyncio.sleep(0.01)


async def test_the_lock_timeout_of_the_route_is_its_own(
    client: httpx2.AsyncClient, shared: FastAPI
) -> None:
    assert (await client.post("/test/locks")).json() == "0"
    await expire(shared)
    assert (await client.post("/test/locks")).json() == "0"


async def test_background_tasks_and_callbacks_run_once(
    client: httpx2.AsyncClient, routes: Routes
) -> None:
    first, second = [await client.post("/test/tasks") for _ in range(2)]
    assert first.content == second.content
    assert routes.done == ["commit", "task"]


async def test_a_response_that_is_too_large_is_not_kept_and_the_change_not_repeated(
    client: httpx2.AsyncClient, shared: FastAPI
) -> None:
    assert (await client.post("/test/large")).status_code == 200
    response = await client.post("/test/large")
    assert (response.status_code, response.json()["code"]) == (409, "idempotency_response_not_kept")
    assert await count(shared) == 1


async def test_a_streamed_response_is_a_fault_and_changes_nothing(
    client: httpx2.AsyncClient, shared: FastAPI
) -> None:
    assert (await client.post("/test/stream")).status_code == 500
    assert await count(shared) == 0


async def test_a_second_transaction_beside_that_of_the_key_is_a_fault(
    client: httpx2.AsyncClient, shared: FastAPI
) -> None:
    assert (await client.post("/test/second")).status_code == 500
    assert await count(shared) == 0


async def test_requests_with_keys_need_one_connection_each(
    shared: FastAPI, client: httpx2.AsyncClient
) -> None:
    """Four times as many as the pool has."""
    responses = await asyncio.gather(
        *(
            client.post("/test/pay", json={"amount": 7}, headers={"Idempotency-Key": f"{i % 8}"})
            for i in range(16)
        )
    )
    assert [each.status_code for each in responses] == [200] * 16
    assert await count(shared) == 8


async def test_an_expired_key_can_be_used_again(
    client: httpx2.AsyncClient, shared: FastAPI
) -> None:
    await client.post("/test/pay", json={"amount": 7})
    await expire(shared)
    response = await client.post("/test/pay", json={"amount": 8})
    assert response.json()["amount"] == 8
    assert (await count(shared), await count(shared, "idempotency_keys")) == (2, 1)


async def expire(app: FastAPI) -> None:
    async with app.state.db.transaction() as session:
        await session.execute(text("UPDATE idempotency_keys SET expires_at = now()"))


async def test_expired_keys_are_swept_in_batches(
    client: httpx2.AsyncClient, shared: FastAPI
) -> None:
    for number in range(5):
        headers = {"Idempotency-Key": f"{number}"}
        await client.post("/test/pay", json={"amount": 7}, headers=headers)
    await expire(shared)
    await client.post("/test/pay", json={"amount": 7})
    async with shared.state.db.transaction() as session:
        assert [await idempotency_keys.sweep(session, 3) for _ in range(3)] == [3, 2, 0]
    assert await count(shared, "idempotency_keys") == 1


async def test_requests_sweep_expired_keys_themselves(
    client: httpx2.AsyncClient, shared: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "SWEEP_INTERVAL", 1)
    await client.post("/test/pay", json={"amount": 7})
    await expire(shared)
    headers = {"Idempotency-Key": "another"}
    await client.post("/test/pay", json={"amount": 7}, headers=headers)
    assert await count(shared, "idempotency_keys") == 1


@pytest.fixture
def router() -> APIRouter:
    return APIRouter(route_class=idempotent(by=caller))


def test_routes_that_stream_or_take_a_form_are_refused_when_they_are_declared(
    router: APIRouter,
) -> None:
    async def form(name: Annotated[str, Form()]) -> None: ...
    async def lines() -> AsyncIterator[str]:
        yield ""

    with pytest.raises(TypeError, match="takes a form"):
        router.add_api_route("/x", form, methods=["POST"])
    with pytest.raises(TypeError, match="streams its response"):
        router.add_api_route("/x", lines, methods=["POST"], response_class=StreamingResponse)
    router.add_api_route("/x", lines, methods=["GET"], response_class=StreamingResponse)


def test_the_caller_s_own_dependencies_and_documentation_are_kept(router: APIRouter) -> None:
    async def other() -> None: ...
    async def route() -> None: ...

    router.add_api_route(
        "/x", route, methods=["POST"], dependencies=[Depends(other)], openapi_extra={"x-a": 1}
    )
    app = FastAPI()
    app.include_router(router)
    operation = app.openapi()["paths"]["/x"]["post"]
    assert operation["x-a"] == 1
    assert [each["name"] for each in operation["parameters"]] == ["Idempotency-Key"]
    [context] = [c for c in routing.iter_route_contexts(app.router.routes) if c.path == "/x"]
    assert context.dependant.dependencies[0].call is other


@pytest.mark.parametrize("required", [False, True])
def test_the_document_describes_the_key(required: bool) -> None:
    router = APIRouter(route_class=idempotent(by=caller, required=required))
    router.add_api_route("/x", Routes().tasks, methods=["POST"], status_code=201)
    router.add_api_route("/x", Routes().locks, methods=["PUT"])
    app = FastAPI(responses=DEFAULT_RESPONSES)
    app.include_router(router)
    operations = app.openapi()["paths"]["/x"]
    [parameter] = operations["post"]["parameters"]
    assert (parameter["name"], parameter["required"]) == ("Idempotency-Key", required)
    assert "Idempotency-Replayed" in operations["post"]["responses"]["201"]["headers"]
    assert {"400", "409", "422"} <= set(operations["post"]["responses"])
    assert "parameters" not in operations["put"]


async def test_pages_of_allowed_origins_can_send_the_key_and_read_the_header(
    module_settings: Settings,
) -> None:
    origin = "https://app.example.com"
    changes = {"cors_origins": [origin]}
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "idempotency-key",
    }
    settings = module_settings.model_copy(update=changes)
    async with running_platform(settings) as app, client_for(app) as client:
        assert (await client.options("/health/live", headers=headers)).status_code == 200
        response = await client.get("/health/live", headers={"Origin": origin})
    assert "Idempotency-Replayed" in response.headers["Access-Control-Expose-Headers"]


async def test_requests_are_counted_by_how_they_ended(
    shared: FastAPI, client: httpx2.AsyncClient, routes: Routes
) -> None:
    def counts() -> dict[str, float]:
        value = shared.state.metrics.registry.get_sample_value
        names = ("new", "replayed", "reused", "in_use", "not_kept")
        return {name: value("idempotent_requests_total", {"result": name}) or 0.0 for name in names}

    before = counts()
    for amount in (1, 1, 1, 2):
        await client.post("/test/pay", json={"amount": amount})
    await client.put("/test/pay", json={"amount": 1})  # idempotent by itself: not counted
    client.headers["Idempotency-Key"] = str(uuid4())
    for _ in range(2):
        await client.post("/test/large")
    client.headers["Idempotency-Key"] = str(uuid4())
    first = asyncio.create_task(client.post("/test/wait"))
    await routes.entered.wait()
    assert (await client.post("/test/wait")).status_code == 409
    routes.leave.set()
    await first
    after = counts()
    grown = {name: after[name] - before[name] for name in after}
    assert grown == {"new": 3, "replayed": 2, "reused": 1, "in_use": 1, "not_kept": 1}


async def test_a_failure_of_the_database_is_not_taken_for_a_key_in_use(shared: FastAPI) -> None:
    async def claim() -> None:
        async with shared.state.db.transaction() as session:
            await session.execute(text("SET TRANSACTION READ ONLY"))
            await idempotency_keys.claim(session, "ada", "1", b"", ttl=60, wait=1)

    with pytest.raises(DBAPIError, match="read-only"):
        await claim()
