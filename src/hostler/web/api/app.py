"""The control API as an application: routes and errors."""

from __future__ import annotations

from fastapi import FastAPI

from hostler import __version__
from hostler.control.verbs import Verbs
from hostler.spec.resources import API_PREFIX
from hostler.web.api import administration, blobs, deployments, models, usage
from hostler.web.api.errors import add_error_handlers


def create_app(verbs: Verbs) -> FastAPI:
    """The API over these verbs. It checks no keys itself: `gate.Gate` stands before it."""
    app = FastAPI(
        title="Hostler",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.verbs = verbs
    add_error_handlers(app)
    for router in (models.router, blobs.router, deployments.router, usage.router, administration.router):
        app.include_router(router, prefix=API_PREFIX)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(f"{API_PREFIX}/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, object]:
        return app.openapi()

    return app
