"""Batches: many items in one request, each with its own status, or all of them or none."""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from http import HTTPStatus
from typing import Annotated, Generic, TypeVar

from pydantic import Field
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app.platform.base.errors import AppError
from app.platform.http.dependency_errors import refusal
from app.platform.http.problems import Problem, document
from app.platform.http.schemas import RequestModel, ResponseModel

MAX_ITEMS = 500

Item = TypeVar("Item")
Result = TypeVar("Result")


class BatchRequest(RequestModel, Generic[Item]):
    """Up to 500 items; one that is invalid refuses the request (422), before any is handled."""

    items: Annotated[list[Item], Field(min_length=1, max_length=MAX_ITEMS)]
    atomic: bool = Field(
        False,
        strict=True,
        description="Whether one item that fails undoes the others, and is the response",
    )


class BatchResult(ResponseModel, Generic[Result]):
    """The result of one item: ``item`` if it succeeded, ``problem`` if it failed."""

    status: int = Field(examples=[201])
    item: Result | None = None
    problem: Problem | None = None


class Batch(ResponseModel, Generic[Result]):
    """The results of a batch, in the order of its items."""

    failed: int = Field(description="Number of items that failed", examples=[0])
    results: list[BatchResult[Result]]


async def run_batch(
    session: AsyncSession,
    batch: BatchRequest[Item],
    run: Callable[[Item], Awaitable[Result]],
    *,
    status: HTTPStatus = HTTPStatus.CREATED,
) -> Batch[Result]:
    """Run each item of ``batch`` in a savepoint; ``status`` is that of an item that succeeds.

    An ``AppError`` is the result of its item only, and so is a conflict that Postgres reports, such
    as a unique violation. If the batch is atomic, it is raised and names the item. Any other
    exception fails the request, and undoes all items.
    """
    results: list[BatchResult[Result]] = []
    for number, item in enumerate(batch.items):
        try:
            async with nullcontext() if batch.atomic else session.begin_nested():
                made = await run(item)
            results.append(BatchResult(status=status, item=made))
        except (AppError, DBAPIError) as error:
            refused = refusal(error) if isinstance(error, DBAPIError) else error
            if refused is None:
                raise
            if batch.atomic:
                refused.detail = f"Item {number}: {refused.detail}"
                raise refused from None
            problem = document(refused.status, refused.code, refused.detail)
            results.append(BatchResult(status=refused.status, problem=problem))
    return Batch(failed=sum(each.problem is not None for each in results), results=results)
