"""Listening ports: taken ones are told at once, with who holds them and what to change."""

from __future__ import annotations

import errno
import socket
import time

from hostler.spec.errors import HostlerError, InvalidRequest, PortTaken


def listening_socket(host: str, port: int, *, flag: str, backlog: int = 1024) -> socket.socket:
    """A socket that listens on `host:port`.

    Raises `PortTaken` naming the holder and `flag`, `InvalidRequest` for an address this machine does not have.
    """
    listener = bound_socket(host, port, flag=flag)
    listener.listen(backlog)
    listener.setblocking(False)
    return listener


_LET_GO_S = 1.0


def check_port(host: str, port: int, *, flag: str) -> None:
    """Raise as `listening_socket` does, and leave the port free. One that was just killed gets a second to let go."""
    deadline = time.monotonic() + _LET_GO_S
    while True:
        try:
            bound_socket(host, port, flag=flag).close()
        except PortTaken:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def bound_socket(host: str, port: int, *, flag: str) -> socket.socket:
    """A socket bound to `host:port`, not listening. Errors as in `listening_socket`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise InvalidRequest(
            f"host: {host!r} is not an address: {error.strerror}.", hint="Use 127.0.0.1 or 0.0.0.0.", param="host"
        ) from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise bind_error(error, host, port, flag=flag) from None
    return bound


def bind_error(error: OSError, host: str, port: int, *, flag: str) -> HostlerError:
    """What to tell a person about a bind that failed."""
    if error.errno == errno.EADDRINUSE:
        return PortTaken(
            f"Port {port} on {host} is taken by {holder_of(port)}.",
            hint=f"Stop it, or use another port with {flag}.",
            param=flag.lstrip("-").replace("-", "_"),
        )
    if error.errno == errno.EACCES:
        return InvalidRequest(
            f"Port {port} may not be used by this user.", hint=f"Use one from 1024 on with {flag}.", param="port"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidRequest(
            f"host: this machine has no address {host}.", hint="Use 127.0.0.1, 0.0.0.0 or one of its own.", param="host"
        )
    return HostlerError(f"Port {port} on {host} cannot be opened: {error.strerror}.")


def _command(arguments: list[str]) -> str:
    """A command line in a few words; a part of Hostler by its module, and how to end it."""
    own = next((word for word in arguments if word.startswith("hostler.")), None)
    if own is not None:
        return f"{own}, a part of a Hostler; end that one with its own `hostler down`"
    return " ".join(" ".join(arguments[:3]).split())[:80]


def holder_of(port: int) -> str:
    """Who listens on a port, in words."""
    import psutil

    try:
        for connection in psutil.net_connections(kind="tcp"):
            local = connection.laddr
            if local and local.port == port and connection.status == psutil.CONN_LISTEN and connection.pid:
                process = psutil.Process(connection.pid)
                return f"process {connection.pid} ({_command(process.cmdline()) or process.name()})"
    except (psutil.Error, OSError):
        pass
    return "another process, which this user may not see"
