"""The dashboard as a part of the application: its routes, its assets, and its way of refusing."""

from fastapi import FastAPI

from mild_service.ui import assets, downloads, login, run, runs

_PAGES = (login, runs, run, downloads)


def install(app: FastAPI) -> None:
    """Add the pages and their assets to `app`."""
    for page in _PAGES:
        app.include_router(page.router)
    app.mount(assets.PATH, assets.Assets(), name="ui-static")
