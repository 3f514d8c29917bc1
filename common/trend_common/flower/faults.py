"""Network errors in the words of the person who has to act on them."""

from __future__ import annotations

import ssl

import httpx

from trend_common.errors import ConnectionFailure

__all__ = ["UntrustedServer", "as_failure", "is_fatal"]


class UntrustedServer(ConnectionFailure):
    """The server's certificate is not one of the authority that is pinned."""


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """The TLS error behind ``error``, if that is what it was (httpx wraps it twice)."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, ssl.SSLError):
            return current
        seen.add(id(current))
        current = current.__cause__ or current.__context__
    return None


def is_fatal(error: httpx.TransportError) -> bool:
    """Whether trying again cannot help: the other side is not who it should be, or does not speak TLS.

    A TLS connection that merely broke (end of file, reset) is worth another try.
    """
    found = _tls_error(error)
    if isinstance(found, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        return False
    return found is not None


def as_failure(error: Exception, server: str) -> ConnectionFailure:
    """Return ``error`` as a message for people."""
    tls = _tls_error(error)
    if isinstance(tls, ssl.SSLCertVerificationError):
        reason = tls.verify_message or "it cannot be verified"
        return UntrustedServer(
            f"The certificate of {server} is not trusted: {reason}.",
            "Use the certificate authority that came with your invitation, and the host name that the operator gave "
            "you. If both are right, somebody may be between you and the server: do not go on, tell the operator.",
        )
    if tls is not None and is_fatal_tls(tls):
        return ConnectionFailure(
            f"{server} does not speak TLS as it should ({tls.reason or 'handshake failed'}).",
            "Check host and port with the operator.",
        )
    if isinstance(error, httpx.TimeoutException):
        reason = "it does not answer"
    elif isinstance(error, httpx.InvalidURL):
        reason = "the address is not of the form HOST:PORT"
    else:
        reason = str(error) or type(error).__name__
    return ConnectionFailure(
        f"The server {server} cannot be reached: {reason}.",
        "Check the address, your network and proxy (HTTPS_PROXY), and with the operator that the server runs.",
    )


def is_fatal_tls(error: ssl.SSLError) -> bool:
    """See :func:`is_fatal`."""
    return not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)
