"""From a head to an exchange: what is asked for, by whom, of which endpoint, with which body."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from hostler.gateway.account import Account
from hostler.gateway.admission import authenticate, check_path, check_protocol, endpoint_for, for_adapter, split_model
from hostler.gateway.answers import Answer, local_answer, public_answer
from hostler.gateway.bodies import read_call, read_passed_call, wants_usage, with_usage_asked
from hostler.gateway.call_fields import CallFields
from hostler.gateway.client_side import Client
from hostler.gateway.exchange import Exchange
from hostler.gateway.front import Front
from hostler.gateway.hosts import check_host
from hostler.gateway.request import Head, Request
from hostler.gateway.routing import ROUTED_BY_MODEL, Kind, Route, find_route
from hostler.gateway.table import Endpoint
from hostler.spec.errors import NotFound
from hostler.spec.snapshot import KeyGrant

COLLECTED_BYTES: Final = 64 * 1024
"""A body of this size or less is read whole although its path says where it goes: it can then be sent again, and so go
out on a kept-alive connection."""
_UNCOUNTED_PATHS: Final = frozenset({"/v1/messages/count_tokens"})
"""Of OpenAI's API and Anthropic's, those that generate nothing."""
_STREAMED_PATHS: Final = frozenset({"/v1/chat/completions", "/v1/completions"})
"""Whose streams tell their usage only if they are asked to."""


_PASS: Final = Kind.PASS
_OPENAI: Final = Kind.OPENAI


def route_of(head: Head) -> Route:
    """What the head asks for. Raises `NotFound` or `WrongMethod`."""
    route = head.route
    if route is None:
        route = head.route = find_route(head.path, method=head.method)
    return route


def admit(request: Request, *, front: Front, peer: Callable[[], Any]) -> KeyGrant | Answer:
    """The grant of the key that makes the request, or at once the answer that needs none. Raises `HostlerError`.

    `peer` tells the client's address, as the transport has it.
    """
    head = request.head
    if front.hosts is not None and head.host not in front.hosts:
        check_host(head, hosts=front.hosts, peer=peer())
    route = head.route or route_of(head)
    if route.public:
        return public_answer(route.kind, table=front.table, draining=front.draining)
    grant = authenticate(head.digest, table=front.table, now=time.time())
    if route.kind is _PASS:
        endpoint_for(route.name, grant=grant, table=front.table)
    return grant


def reads_whole_body(head: Head, *, front: Front) -> bool:
    """Whether the body of an admitted request is needed before it can go on."""
    route = route_of(head)
    if route.kind is not _PASS:
        return route.kind in (_OPENAI, Kind.OIP_INDEX)
    if not head.chunked and head.content_length <= COLLECTED_BYTES:
        return True
    endpoint = front.table.endpoints.get(route.name)
    return endpoint is not None and _counts_tokens(head, route, endpoint)


def open_whole(client: Client, request: Request, grant: KeyGrant, body: bytes, *, front: Front) -> Exchange | Answer:
    """What answers the request, whose body is whole. The exchange is to be started. Raises `HostlerError`."""
    route, table = route_of(request.head), front.table
    kind = route.kind
    if kind is _OPENAI:
        call = read_call(body)
        name = call.model
        if ":" in name:
            name, adapter = split_model(name)
            endpoint = endpoint_for(name, grant=grant, table=table)
            if adapter is not None:
                body = for_adapter(body, adapter=adapter, endpoint=endpoint)
        else:
            endpoint = endpoint_for(name, grant=grant, table=table)
        check_protocol(endpoint, route, path=request.head.path)
        target = request.head.target
        counted = call if request.head.path not in _UNCOUNTED_PATHS else None
        return _exchange(client, request, grant, endpoint, front=front, target=target, body=body, call=counted)
    if kind is _PASS:
        endpoint = endpoint_for(route.name, grant=grant, table=table)
        target = _passed_target(request.head, grant, endpoint)
        counted = read_passed_call(body) if _counts_tokens(request.head, route, endpoint) else None
        return _exchange(client, request, grant, endpoint, front=front, target=target, body=body, call=counted)
    return local_answer(route, grant=grant, table=table, body=body)


def open_streamed(client: Client, request: Request, grant: KeyGrant, *, front: Front) -> Exchange:
    """The exchange of a request whose body goes through as it comes. It is to be started. Raises `HostlerError`."""
    endpoint = endpoint_for(route_of(request.head).name, grant=grant, table=front.table)
    target = _passed_target(request.head, grant, endpoint)
    account = Account(front, request, grant=grant, endpoint=endpoint, call=None, body_bytes=0)
    return Exchange(client, request, front=front, endpoint=endpoint, account=account, target=target, body=None)


def _exchange(
    client: Client,
    request: Request,
    grant: KeyGrant,
    endpoint: Endpoint,
    *,
    front: Front,
    target: str,
    body: bytes,
    call: CallFields | None,
) -> Exchange:
    account = Account(front, request, grant=grant, endpoint=endpoint, call=call, body_bytes=len(body))
    if call is not None and call.stream and _asks_usage(call, target=target):
        body = with_usage_asked(body, call)
        account.hide_usage()
    return Exchange(client, request, front=front, endpoint=endpoint, account=account, target=target, body=body)


def _asks_usage(call: CallFields, *, target: str) -> bool:
    """Whether the gateway asks for a stream's usage, since the caller does not."""
    return not wants_usage(call) and target.partition("?")[0] in _STREAMED_PATHS


def _counts_tokens(head: Head, route: Route, endpoint: Endpoint) -> bool:
    """Whether what goes to a path behind an endpoint's name is counted in tokens.

    All that is posted to an engine of OpenAI's API is: engines read one path in many spellings. Of an engine that may
    speak anything, OpenAI's own paths are.
    """
    if not route.target_from or head.method != "POST":
        return False
    if "openai" in endpoint.route.protocols:
        return True
    return "openai" in endpoint.spoken and head.path[route.target_from :] in ROUTED_BY_MODEL


def _passed_target(head: Head, grant: KeyGrant, endpoint: Endpoint) -> str:
    """The path and query that the engine is asked for. Raises `NotFound`."""
    route = route_of(head)
    check_protocol(endpoint, route, path=head.path)
    if endpoint.external:
        raise NotFound(
            f"{endpoint.name!r} is served by a provider, which only takes OpenAI's paths.",
            hint=f'Use /v1/... with "model": "{endpoint.name}".',
            code="wrong_protocol",
        )
    target = head.target[route.target_from :]
    if not target.startswith("/"):
        target = "/" + target
    if route.target_from or "%" in target or "\\" in target:
        check_path(target.partition("?")[0], method=head.method, grant=grant, endpoint=endpoint)
    return target
