"""Which paths there are, and what each of them is."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, NamedTuple

from hostler.gateway.refusals import WrongMethod
from hostler.spec.errors import NotFound

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_READ: Final = ("GET", "HEAD")
_SUBMIT: Final = ("POST",)


class Kind(Enum):
    """What a path asks for."""

    ALIVE = auto()
    READY = auto()
    OIP_ALIVE = auto()
    OIP_READY = auto()
    OIP_SERVER = auto()
    OIP_INDEX = auto()
    MODELS = auto()
    MODEL = auto()
    OPENAI = auto()
    """Routed by the `model` of the JSON body."""
    PASS = auto()
    """Routed by the path; the body streams through."""


class Route(NamedTuple):
    """A path's meaning: `name` is the endpoint (or model) in it, `target_from` where the upstream's path starts."""

    kind: Kind
    methods: tuple[str, ...]
    protocol: str = "any"
    name: str = ""
    target_from: int = 0
    public: bool = False
    """Whether it is answered without an API key."""


_OPENAI_PATHS: Final = (
    "chat/completions",
    "completions",
    "embeddings",
    "rerank",
    "responses",
    "messages",
    "messages/count_tokens",
)
_EXACT: Final = {
    "/healthz": Route(Kind.ALIVE, _READ, public=True),
    "/readyz": Route(Kind.READY, _READ, public=True),
    "/v2": Route(Kind.OIP_SERVER, _READ),
    "/v2/health/live": Route(Kind.OIP_ALIVE, _READ, public=True),
    "/v2/health/ready": Route(Kind.OIP_READY, _READ, public=True),
    "/v2/repository/index": Route(Kind.OIP_INDEX, _SUBMIT),
    "/v1/models": Route(Kind.MODELS, _READ),
    **{f"/v1/{path}": Route(Kind.OPENAI, _SUBMIT, "openai") for path in _OPENAI_PATHS},
}
ROUTED_BY_MODEL: Final = frozenset(path for path, route in _EXACT.items() if route.kind is Kind.OPENAI)
_MODEL: Final = "/v1/models/"
_OIP_MODEL: Final = "/v2/models/"
_OIP_SUBMITS: Final = frozenset({"infer", "generate", "generate_stream"})
_ENDPOINT: Final = "/endpoints/"


def find_route(path: str, *, method: str) -> Route:
    """What `method path` asks for. Raises `NotFound` or `WrongMethod`."""
    route = _EXACT.get(path) or _by_prefix(path)
    if route is None:
        raise NotFound(
            f"There is nothing at {path[:200]!r}.",
            hint="The front door serves /v1 (OpenAI's API), /v2 (Open Inference Protocol) and /endpoints/NAME/PATH.",
            code="unknown_route",
        )
    if method not in route.methods:
        raise WrongMethod(path[:200], method=method, allowed=route.methods)
    return route


def _by_prefix(path: str) -> Route | None:
    if path.startswith(_OIP_MODEL):
        name, _, rest = path[len(_OIP_MODEL) :].partition("/")
        methods = _SUBMIT if rest.rpartition("/")[2] in _OIP_SUBMITS else METHODS
        return Route(Kind.PASS, methods, "oip", name) if name else None
    if path.startswith(_ENDPOINT):
        name = path[len(_ENDPOINT) :].partition("/")[0]
        return Route(Kind.PASS, METHODS, "any", name, len(_ENDPOINT) + len(name)) if name else None
    if path.startswith(_MODEL):
        name = path[len(_MODEL) :]
        return Route(Kind.MODEL, _READ, name=name) if name else None
    return None


def is_public(path: str) -> bool:
    """Whether the path is answered without an API key."""
    route = _EXACT.get(path)
    return route is not None and route.public
