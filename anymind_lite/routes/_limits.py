"""How often one address may try to register or to log in."""

import time
from ipaddress import IPv6Address, ip_address, ip_network
from math import ceil
from typing import Any

from flask import Flask, Response, jsonify, request
from flask_limiter import Limiter, RequestLimit

_IPV6_CUSTOMER_BITS = 64  # what one customer gets at least (RFC 6177)


def limit_sign_in(app: Flask, *, login: str | None, register: str | None) -> None:
    """Bound log-ins that fail, and registrations, by client address; None means no limit.

    The view runs only when the limit is not reached: an attacker past it costs no bcrypt.
    """
    limiter = Limiter(client_network, app=app, storage_uri="memory://", on_breach=_refuse)
    views: dict[str, Any] = app.view_functions
    if login is not None:
        limited = limiter.limit(login, deduct_when=_is_failed_login)
        views["auth.login"] = limited(views["auth.login"])
    if register is not None:
        views["auth.register"] = limiter.limit(register)(views["auth.register"])


def client_network() -> str:
    """Return the client's address; of IPv6 the network, since every client has 2^64 addresses."""
    # Never empty: Flask-Limiter passes over a limit without a key.
    text = request.remote_addr or "unknown"
    try:
        address = ip_address(text)
    except ValueError:
        return text
    if not isinstance(address, IPv6Address):
        return text
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    # Not the text: it may end in a zone such as %eth0.
    return str(ip_network((int(address), _IPV6_CUSTOMER_BITS), strict=False))


def _is_failed_login(response: Response) -> bool:
    return response.status_code == 401


def _refuse(limit: RequestLimit) -> Response:
    seconds = max(1, ceil(limit.window.reset_time - time.time()))
    response = jsonify({"detail": f"Too many attempts; try again in {seconds} seconds"})
    response.status_code = 429
    response.headers["Retry-After"] = str(seconds)
    return response
