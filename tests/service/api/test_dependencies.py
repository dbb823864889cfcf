"""What stands before every route must not cost it a change of threads."""

import inspect
from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

from mild_service.app import create_app
from mild_service.config import Settings


def _below(dependant: Dependant) -> Iterator[Dependant]:
    for each in dependant.dependencies:
        yield each
        yield from _below(each)


def _in_threads(app: FastAPI) -> set[str]:
    """Dependencies that the framework runs in a worker thread."""
    dependants = [
        context.dependant
        for context in iter_route_contexts(app.routes)
        if isinstance(context.original_route, APIRoute) and context.dependant is not None
    ]
    calls = [each.call for dependant in dependants for each in _below(dependant)]
    assert len(calls) > 50
    waits = (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    return {call.__qualname__ for call in calls if call is not None and not any(is_one(call) for is_one in waits)}


def test_no_dependency_runs_in_a_worker_thread() -> None:
    assert _in_threads(create_app(Settings(store_url="redis://localhost:1"))) == set()
