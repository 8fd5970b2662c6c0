"""Whose certificates the worker believes where it dials out."""

import ssl
from pathlib import Path

import certifi


def trusted(ca_file: Path | None = None) -> ssl.SSLContext:
    """Trust the authorities of a file if one is given, else the system's and certifi's.

    Built by hand, since ``ssl.create_default_context`` writes session keys to the file that the environment
    names in SSLKEYLOGFILE.

    Raises:
        OSError: the file cannot be read as PEM certificates.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs()
        context.load_verify_locations(certifi.where())
    return context


def is_untrusted(error: BaseException) -> bool:
    """Whether a connection failed at a certificate, however deep a library has that."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, ssl.SSLCertVerificationError):
            return True
        at = at.__cause__ or at.__context__
    return False
