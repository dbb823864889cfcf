"""Application factory and lifespan of the service."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache, partial

from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI
from fastapi_offline import FastAPIOffline
from starlette.routing import BaseRoute

from mild_service import __version__
from mild_service.admission import Admission
from mild_service.annotations.external_ids import ExternalIds
from mild_service.annotations.labels_and_audits import LabelsAndAudits
from mild_service.auth import Authenticator
from mild_service.config import Settings
from mild_service.dashboard import audit_page, login_page, rendering, run_page, runs_page, sample_pages, selection_pages
from mild_service.errors import ConfigurationError, StoreError, StoreUnavailable
from mild_service.ingest.sandbox import Sandbox
from mild_service.observability import Telemetry
from mild_service.ops.process import Drain
from mild_service.recording.epoch_status import StatusReader
from mild_service.recording.epoch_writer import EpochWriter
from mild_service.recording.prediction_writer import PredictionWriter
from mild_service.recording.run_writer import RunWriter
from mild_service.recording.shard_writer import ShardWriter
from mild_service.routes import (
    annotations,
    epochs,
    events,
    predictions,
    rounds,
    runs,
    sample_ids,
    samples,
    selection,
    suggestions,
    system,
)
from mild_service.selecting.audit_draws import AuditDraws
from mild_service.selecting.compute import SelectionComputer
from mild_service.selecting.event_feed import EventFeed
from mild_service.selecting.selections import Selections
from mild_service.store import Store
from mild_service.web import problems
from mild_service.web.auth import AuthMiddleware, RouteRules
from mild_service.web.dependencies import reject_unknown_query_parameters
from mild_service.web.middleware import (
    HeadRequests,
    RequestContext,
    RootPath,
    SecurityHeaders,
    allow_origins,
    parse_origins,
)
from mild_service.web.openapi import declare_answers
from mild_service.web.request_limits import Accounting, BodyLimits, Deadline, RateLimiter

logger = logging.getLogger(__name__)

_DESCRIPTION = """Training jobs send one bit per sample and epoch (did the model predict the given label?);
the answer is the set of samples whose labels are likely right."""


def create_app(settings: Settings | None = None, store: Store | None = None) -> FastAPI:
    """Build the FastAPI application of the service.

    Parameters
    ----------
    settings
        Settings of the service; None reads them from the environment.
    store
        Store of runs; None opens the store at ``settings.store_url``. Closed when the application shuts down.

    Raises
    ------
    ConfigurationError
        If neither `store` nor ``settings.store_url`` is given, or the settings contradict each other.
    """
    settings = settings or Settings()
    store = store or _open_store(settings)
    telemetry = Telemetry()
    admission = Admission(settings, telemetry)
    computer = SelectionComputer(store, telemetry, settings, admission)
    app_class = FastAPIOffline if settings.docs else partial(FastAPI, docs_url=None)
    app = app_class(
        title="MILD sample selection",
        description=_DESCRIPTION,
        version=__version__,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.store = store
    app.state.telemetry = telemetry
    app.state.computer = computer
    app.state.ping = store.ping
    app.state.render_problem = rendering.render_problem
    app.state.runs = RunWriter(store, computer, settings, telemetry)
    app.state.epochs = EpochWriter(store, settings, telemetry)
    app.state.shards = ShardWriter(store, settings, telemetry)
    app.state.status_reader = StatusReader(store, settings)
    ids = ExternalIds(store, settings.id_cache_bytes, admission)
    app.state.sample_ids = ids
    sandbox = Sandbox(settings.log_reader_bytes, settings.request_seconds)
    app.state.sandbox = sandbox
    labels_and_audits = LabelsAndAudits(store, telemetry)
    app.state.labels_and_audits = labels_and_audits
    app.state.predictions = PredictionWriter(store, ids, labels_and_audits, sandbox, settings, telemetry, admission)
    event_feed = EventFeed(store)
    app.state.event_feed = event_feed
    app.state.drain = Drain(event_feed)
    app.state.admission = admission
    app.state.selections = Selections(store, computer, labels_and_audits, event_feed, settings)
    app.state.audit_draws = AuditDraws(store, app.state.selections, labels_and_audits)
    app.state.authenticator = Authenticator(store, settings)
    problems.add_error_handlers(app)
    app.router.routes.extend(_build_routes())
    declare_answers(app)
    origins = parse_origins(settings.cors_origins)
    app.add_middleware(Accounting, admission=admission)
    app.add_middleware(HeadRequests)
    app.add_middleware(
        AuthMiddleware,
        authenticator=app.state.authenticator,
        route_rules=RouteRules(app.routes, settings.metrics_access),
        rate_limiter=RateLimiter(settings.rate_per_key, settings.rate_burst),
        origins=origins,
    )
    app.add_middleware(BodyLimits, settings=settings)
    app.add_middleware(Deadline, seconds=settings.request_seconds)
    allow_origins(app, origins)
    app.add_middleware(RequestContext, telemetry=telemetry)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RootPath, root_path=settings.root_path)  # added last: around the others
    return app


@cache
def _build_routes() -> Sequence[BaseRoute]:
    """Build the routes of all resources and pages, once per process.

    Routes hold no state of an application, so every application of the process shares them. FastAPI analyses a
    route's parameters at its first request, which takes longer than the rest of an application's start.
    """
    table = APIRouter()
    resources = (
        epochs,  # routes are matched in this order; epochs get the most requests
        runs,
        rounds,
        predictions,
        annotations,
        sample_ids,
        samples,
        suggestions,
        selection,
        events,
    )
    for resource in resources:
        table.include_router(resource.router, dependencies=[Depends(reject_unknown_query_parameters)])
    for page in (login_page, runs_page, run_page, selection_pages, sample_pages, audit_page):
        table.include_router(page.router)
    table.mount(rendering.STATIC_PATH, rendering.Assets(), name="ui-static")
    table.include_router(system.router)  # without the query check: probes and scrapers may add parameters
    nowhere = {"type": "http", "method": "GET", "path": "", "headers": []}
    for route in table.routes:  # FastAPI prepares the routes of a router when it is first asked for one
        route.matches(nowhere)
    return table.routes


def _open_store(settings: Settings) -> Store:
    """Open the store that the settings name."""
    if settings.store_url is None:
        raise ConfigurationError(
            "no store is named; set MILD_STORE_URL (such as redis://localhost:6379/0), "
            "or start with `mild-service serve --embedded`"
        )
    return Store(settings, settings.store_url)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the background tasks while the application serves requests; then end them and close the store."""
    # Stopped by an event, not cancelled: before Python 3.12 a task that is sending a command swallows a cancellation.
    stop_event = asyncio.Event()
    app.state.computer.start()
    schema_task = asyncio.create_task(_check_schema(app, stop_event))
    sweep_task = asyncio.create_task(_sweep_expired_runs(app, stop_event))
    try:
        yield
    finally:
        stop_event.set()
        app.state.drain.begin()
        app.state.admission.close()
        await app.state.event_feed.aclose()
        await schema_task
        await sweep_task
        await to_thread.run_sync(app.state.sandbox.close)
        await app.state.computer.aclose()
        await app.state.store.aclose()


async def _check_schema(app: FastAPI, stop_event: asyncio.Event) -> None:
    """Check the schema of the store as soon as it answers."""
    while not stop_event.is_set():
        try:
            await app.state.store.check_schema()
            return
        except StoreUnavailable:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop_event.wait(), 1)
        except StoreError as error:
            logger.critical("%s", error)
            return


async def _sweep_expired_runs(app: FastAPI, stop_event: asyncio.Event) -> None:
    """Delete expired runs and check the store's memory periodically. Several replicas can do this at the same time."""
    seconds = app.state.settings.sweep_seconds
    while seconds > 0:
        with suppress(TimeoutError):
            await asyncio.wait_for(stop_event.wait(), seconds)
            return
        try:
            app.state.telemetry.expired_runs.inc(await app.state.store.runs.sweep())
            await app.state.runs.check_capacity()
        except StoreError as error:
            logger.warning("expired runs could not be swept: %s", error)
