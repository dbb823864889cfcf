"""The dashboard as a part of the application: its routes, its assets, and its way of refusing."""

from fastapi import FastAPI

from mild_service.ui import assets, classes, compare, data_map, downloads, login, run, runs, sample, samples

_PAGES = (login, runs, run, data_map, classes, samples, sample, compare, downloads)


def install(app: FastAPI) -> None:
    """Add the pages and their assets to `app`."""
    for page in _PAGES:
        app.include_router(page.router)
    app.mount(assets.PATH, assets.Assets(), name="ui-static")
