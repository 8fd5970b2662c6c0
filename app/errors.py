"""Every error that Cordon raises on purpose, on one screen.

    CordonError
    ├── RefusedError            the caller can mend it
    │   ├── MalformedError · UnauthenticatedError · ForbiddenError · NotFoundError
    │   ├── MethodNotAllowedError · ConflictError · TooLargeError · UnsupportedMediaTypeError
    │   ├── InvalidRequestError · InvalidContextError · UrlRefusedError
    │   └── SignatureRequiredError
    └── UnavailableError        try again later, or tell whoever runs the service
        ├── NotReadyError · OverloadedError · RateLimitedError · ReportNotStoredError
        └── FetchFailedError · FetchTimeoutError

Outcomes are values, not errors: a match or an undecidable medium raises nothing.

``str(error)`` is for operators and may name a setting; ``detail`` is for callers. Neither ever holds
a URL, a host, a hash, a file name or a context. ``app.api.problems`` maps each code to its HTTP status.
"""

from typing import ClassVar


class CordonError(Exception):
    """Base of all errors with a public face.

    Attributes:
        code: the machine-readable code of the contract.
        detail: one sentence for the caller, free of anything secret.
    """

    code: ClassVar[str]
    detail: str

    def __init__(self, detail: str, operator_detail: str | None = None) -> None:
        super().__init__(operator_detail or detail)
        self.detail = detail


class RefusedError(CordonError):
    """The request cannot be served as it stands; the caller can mend it."""


class UnavailableError(CordonError):
    """The service, or a host it depends on, cannot serve this now."""


class MalformedError(RefusedError):
    """The request cannot be parsed."""

    code = "malformed"


class UnauthenticatedError(RefusedError):
    """No valid token was given."""

    code = "unauthenticated"

    def __init__(self) -> None:
        super().__init__("Send a valid token: 'Authorization: Bearer <token>'.")


class ForbiddenError(RefusedError):
    """The token lacks the scope."""

    code = "forbidden"

    def __init__(self, scope: str) -> None:
        super().__init__(f"This token lacks the scope '{scope}'.")


class NotFoundError(RefusedError):
    """There is no such thing."""

    code = "not_found"


class MethodNotAllowedError(RefusedError):
    """The path exists, the method does not."""

    code = "method_not_allowed"


class ConflictError(RefusedError):
    """The request contradicts what is there."""

    code = "conflict"


class TooLargeError(RefusedError):
    """The medium or the request is larger than this service accepts."""

    code = "too_large"

    def __init__(self, limit: int, unit: str = "bytes") -> None:
        super().__init__(
            f"Larger than the {limit} {unit} this service accepts.",
            f"stopped at {limit} {unit}; CORDON_MAX_BYTES and CORDON_MAX_VIDEO_BYTES limit media",
        )


class UnsupportedMediaTypeError(RefusedError):
    """The request's own type is none of the accepted forms."""

    code = "unsupported_media_type"


class InvalidRequestError(RefusedError):
    """A field of the request is wrong; the detail names it and the mend."""

    code = "invalid_request"


class InvalidContextError(RefusedError):
    """A key of the context is unknown or wrong; the detail names it and the mend."""

    code = "invalid_context"


class UrlRefusedError(RefusedError):
    """The URL, or an address it leads to, may not be fetched.

    Every refusal looks the same to the caller, so that inner names and addresses cannot be listed.
    """

    code = "url_refused"

    def __init__(self, operator_detail: str) -> None:
        super().__init__("This URL cannot be fetched.", operator_detail)


class SignatureRequiredError(RefusedError):
    """What decides or destroys takes a custodian's signed document, and this is none that counts here."""

    code = "signature_required"


class NotReadyError(UnavailableError):
    """A match could not be caught and stored now, so nothing is taken in."""

    code = "not_ready"

    def __init__(self, failing: str) -> None:
        super().__init__("The service is not ready to decide. Try again later.", f"not ready: {failing}")


class OverloadedError(UnavailableError):
    """A budget of bytes or workers is spent."""

    code = "overloaded"

    def __init__(self, operator_detail: str) -> None:
        super().__init__("The service is at its limit. Try again shortly.", operator_detail)


class RateLimitedError(UnavailableError):
    """A key's own limit is spent."""

    code = "rate_limited"

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__("This key is at its limit of requests. Slow down.")
        self.retry_after_seconds = retry_after_seconds


class ReportNotStoredError(UnavailableError):
    """A medium was dropped, but what must be kept of it could not be stored."""

    code = "report_not_stored"

    def __init__(self, operator_detail: str) -> None:
        super().__init__("The result could not be stored. Nothing was released; try again.", operator_detail)


class FetchFailedError(UnavailableError):
    """A permitted host failed to deliver the medium."""

    code = "fetch_failed"

    def __init__(self, operator_detail: str, upstream_status: int | None = None) -> None:
        super().__init__("The host did not deliver the medium.", operator_detail)
        self.upstream_status = upstream_status


class FetchTimeoutError(UnavailableError):
    """A permitted host took too long."""

    code = "fetch_timeout"

    def __init__(self) -> None:
        super().__init__(
            "The host took too long to deliver the medium.",
            "the host took too long; see CORDON_FETCH_*_SECONDS",
        )
