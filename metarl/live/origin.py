"""Who may use a page: those who have it from its own server.

A browser lets every page that is open in it connect to every server on this machine, and says in `Origin` whose page it
is (RFC 6455, section 10.2). viser does not ask. A name that an attacker has pointed to 127.0.0.1 makes the attacker's
page one of the same origin (DNS rebinding), so a server for this machine alone wants to be called by its own name.
"""

from __future__ import annotations

import ipaddress
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import websockets.asyncio.server

from metarl.errors import RunWarning


@contextmanager
def own_pages_only(local: bool) -> Iterator[None]:
    """A viser server that starts in the meantime answers its own pages alone; others get status 403.

    Args:
        local: whether it serves this machine alone.
    """
    serve, guarded = websockets.asyncio.server.serve, []

    def guard(*arguments: Any, process_request: Any, **options: Any) -> Any:
        def check(connection: Any, request: Any) -> Any:
            if is_foreign(request.headers.get("Origin"), request.headers.get("Host", ""), local):
                return connection.respond(HTTPStatus.FORBIDDEN, "This page belongs to another address.\n")
            return process_request(connection, request)

        guarded.append(check)
        return serve(*arguments, process_request=check, **options)

    websockets.asyncio.server.serve = guard  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        websockets.asyncio.server.serve = serve  # type: ignore[misc]
    if not guarded:
        text = "this version of viser starts its server in another way: other pages in your browser could use the page"
        warnings.warn(text, RunWarning, stacklevel=3)


def is_foreign(origin: str | None, host: str, local: bool) -> bool:
    """Whether a request comes from another server's page.

    Args:
        origin: whose page it is; None: a program's, or the first look at the page.
        host: what the server was called, with the port.
        local: whether only this machine's own names are right.
    """
    try:
        elsewhere = origin is not None and urlsplit(origin).netloc != host
        return elsewhere or (local and not is_loopback(urlsplit(f"//{host}").hostname or ""))
    except ValueError:  # not an address
        return True


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, which others cannot reach."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
