"""What goes wrong, in OpenAI's error format: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from forkpoint.redaction import without_secrets


class ApiError(Exception):
    """A request that is not answered: HTTP status, one sentence, and the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        message = without_secrets(message)
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's servers write it."""
        kind = {401: "authentication_error", 404: "not_found_error", 502: "upstream_error", 503: "overloaded_error"}
        default = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind.get(self.status, default), "param": self.param,
                 "code": self.code}  # fmt: skip
        return {"error": error}

    def response(self) -> JSONResponse:
        """The error as a whole response."""
        return JSONResponse(self.body(), self.status, headers=self.headers)


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400: the request itself is at fault."""
    return ApiError(400, message, param=param, code=code)


def failed() -> ApiError:
    """A 500: a bug of ours."""
    return ApiError(500, "forkpoint serve failed at this request; its log says where")


def install(app: FastAPI) -> None:
    """Every failure of the app in OpenAI's format, those of routing and of our own bugs included."""

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def routed(request: Request, error: HTTPException) -> JSONResponse:
        sentence = {404: f"there is no {request.url.path} here", 405: f"{request.url.path} takes no {request.method}"}
        return ApiError(
            error.status_code, sentence.get(error.status_code, str(error.detail)), headers=error.headers
        ).response()

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return failed().response()
