"""A web front end: it submits and looks, and never waits for a gate; workers execute."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from p04_payment import Order, checkout

from relight import AsyncClient
from relight.errors import GateError, IdempotencyMismatch, NotFound
from relight.model import JobInfo


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, AsyncClient]]:
    async with AsyncClient(workflows=[checkout]) as client:  # the store is RELIGHT_STORE
        yield {"relight": client}


app = FastAPI(lifespan=lifespan)


def relight(request: Request) -> AsyncClient:
    client = request.state.relight
    assert isinstance(client, AsyncClient)
    return client


Relight = Annotated[AsyncClient, Depends(relight)]


@app.exception_handler(GateError)
async def busy(_: Request, error: GateError) -> JSONResponse:
    wait = {"Retry-After": str(error.retry_after_seconds)}
    return JSONResponse({"code": error.code, "detail": str(error)}, 503, headers=wait)


@app.post("/orders", status_code=202)
async def create(order: Order, client: Relight, idempotency_key: Annotated[str, Header()]) -> dict[str, str]:
    try:
        job = await client.submit(checkout, order, idempotency_key=idempotency_key, tags={"order": order.id})
    except IdempotencyMismatch as error:
        raise HTTPException(409, str(error)) from error
    return {"job_id": job.id}


@app.get("/orders/{job_id}")
async def show(job_id: str, client: Relight) -> JobInfo:
    try:
        return await client.job(job_id).info()
    except NotFound as error:
        raise HTTPException(404, str(error)) from error


@app.delete("/orders/{job_id}", status_code=202)
async def stop(job_id: str, client: Relight, user: str = "web") -> None:
    await client.job(job_id).cancel("asked by the customer", by=user)
