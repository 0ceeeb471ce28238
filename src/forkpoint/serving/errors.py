"""What goes wrong, in OpenAI's error format: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from forkpoint.redaction import without_secrets

TYPES = {401: "authentication_error", 404: "not_found_error", 502: "upstream_error", 503: "overloaded_error"}


class ApiError(Exception):
    """A request that is not answered: HTTP status, one sentence, and the field at fault."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.message = without_secrets(message)
        super().__init__(self.message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's servers write it."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The error as a whole response."""
        return JSONResponse(self.body(), self.status, headers=self.headers)


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400: the request itself is at fault."""
    return ApiError(400, message, param, code)


def failed() -> ApiError:
    """A 500: a bug of ours."""
    return ApiError(500, "forkpoint serve failed at this request; its log says where")


async def _refused(request: Request, error: Exception) -> JSONResponse:
    return (error if isinstance(error, ApiError) else failed()).response()


async def _not_routed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    sentences = {404: f"there is no {request.url.path} here", 405: f"{request.url.path} takes no {request.method}"}
    message = sentences.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=error.headers).response()


HANDLERS: dict[int | type[Exception], Any] = {ApiError: _refused, Exception: _refused, HTTPException: _not_routed}
