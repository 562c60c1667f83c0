"""Errors in the form that OpenAI's clients read."""

from __future__ import annotations

from typing import Any

INVALID = "invalid_request_error"
SERVER = "server_error"


class RequestFaultError(Exception):
    """A request that is not answered.

    Args:
        message: What is wrong, what is allowed, what to do.
        code: A short name of the fault, for programs.
        status: HTTP status.
        param: The field of the request.
        kind: `invalid_request_error` or `server_error`.
    """

    def __init__(
        self,
        message: str,
        code: str,
        status: int = 400,
        param: str | None = None,
        kind: str = INVALID,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.param = param
        self.kind = kind

    def document(self) -> dict[str, Any]:
        """Return the error object."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }
