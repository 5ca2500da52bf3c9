"""Problems: why a client gets no answer of a model, in the words of the protocol that it speaks.

Clients try again what they take for a passing fault. Whatever trying again cannot change says so in `x-should-retry`.
"""

from typing import Any, Final, Literal

import msgspec

from crewkeeper_bus.messages import Fault

Protocol = Literal["openai", "anthropic"]

_TEXT_MAX_CHARS: Final = 2000
_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OPENAI_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_STATUS_OF_FAULT: Final = {
    "budget_spent": 402,
    "unknown_price": 400,
    "unknown_model": 400,
    "bad_arguments": 400,
    "too_large": 413,
    "denied": 403,
    "approval_denied": 403,
    "approval_expired": 403,
    "cancelled": 403,
    "rate_limited": 429,
    "circuit_open": 429,
    "gate_closed": 503,
    "held": 503,
}
_WORTH_RETRYING: Final = ("rate_limited", "circuit_open", "gate_closed")


class Problem(Exception):  # noqa: N818 - what is the case
    """An answer instead of the model's.

    Attributes:
        status: HTTP status.
        code: What is wrong, as one word.
        text: For people and models.
        retry: Whether the client does well to try again.
        after_s: How long it should wait before that; 0: as it likes.
    """

    def __init__(self, status: int, code: str, text: str, *, retry: bool = False, after_s: float = 0.0) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.text = text[:_TEXT_MAX_CHARS]
        self.retry = retry
        self.after_s = after_s

    @classmethod
    def of_fault(cls, fault: Fault) -> "Problem":
        """What the gate has said."""
        retry = fault.code in _WORTH_RETRYING
        status = _STATUS_OF_FAULT.get(fault.code, 403)
        return cls(status, fault.code, fault.text, retry=retry, after_s=1.0 if retry else 0.0)

    def body(self, protocol: Protocol) -> dict[str, Any]:
        """The body of the response."""
        if protocol == "anthropic":
            type_ = _ANTHROPIC_TYPES.get(self.status, "api_error")
            return {"type": "error", "error": {"type": type_, "message": self.text, "code": self.code}}
        type_ = _OPENAI_TYPES.get(self.status, "server_error")
        return {"error": {"message": self.text, "type": type_, "param": None, "code": self.code}}

    def payload(self, protocol: Protocol) -> bytes:
        """The body as bytes."""
        return msgspec.json.encode(self.body(protocol))

    def headers(self) -> dict[str, str]:
        """Headers of the response, its body's aside."""
        headers = {"x-should-retry": "true" if self.retry else "false"}
        if self.after_s:
            headers["retry-after"] = f"{max(1, round(self.after_s))}"
        return headers

    def event(self, protocol: Protocol) -> bytes:
        """The problem as an event, for a stream that has begun."""
        head = b"event: error\n" if protocol == "anthropic" else b""
        return head + b"data: " + self.payload(protocol) + b"\n\n"
