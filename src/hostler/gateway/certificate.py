"""The front door's certificate and its key."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

from hostler.settings import Settings
from hostler.spec.errors import InvalidRequest


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """What the front door serves TLS with; None without a certificate.

    Raises `InvalidRequest`, naming setting and file, if a file cannot be read, is not what it should be, or if others
    may read the key. That is refused and not warned of: nobody reads warnings, and one chmod ends it. The key's group
    may read it, as it is with keys that the system's services share.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None or key is None:
        return None
    _check_file("tls_certificate", certificate)
    _check_file("tls_key", key)
    if key.stat().st_mode & stat.S_IROTH:
        raise InvalidRequest(
            f"tls_key: everybody on this machine may read {key}.", hint=f"Run chmod o-r {key}.", param="tls_key"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_IGNORE_UNEXPECTED_EOF
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An empty password, so that nobody is asked for one.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise _unusable(certificate, key, error) from None
    return context


def _check_file(setting: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InvalidRequest(
            f"{setting}: {path} cannot be read: {error.strerror}.",
            hint=f"Set HOSTLER_{setting.upper()} to a PEM file this user may read.",
            param=setting,
        ) from None


def _unusable(certificate: Path, key: Path, error: ssl.SSLError) -> InvalidRequest:
    """Which of the two files is to blame."""
    if error.reason == "KEY_VALUES_MISMATCH":
        return InvalidRequest(
            f"tls_key: {key} is not the key of the certificate {certificate}.",
            hint="Set HOSTLER_TLS_KEY to the key the certificate was made with.",
            param="tls_key",
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except ssl.SSLError:
        return InvalidRequest(
            f"tls_certificate: {certificate} holds no certificate that can be used.",
            hint="It must be a PEM file: the server's certificate first, then those that signed it.",
            param="tls_certificate",
        )
    return InvalidRequest(
        f"tls_key: {key} holds no private key that can be used ({error.reason or 'it is not PEM'}).",
        hint="It must be a PEM file without a password.",
        param="tls_key",
    )
