"""Errors as ``application/problem+json`` (RFC 9457), each with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

__all__ = ["MEDIA_TYPE", "Problem", "ProblemError", "WrongPlace", "answer", "documented", "not_fitting"]

MEDIA_TYPE: Final = "application/problem+json"
_SHOWN: Final = 20


class WrongPlace(BaseModel):
    """One place of a request that does not fit."""

    model_config = ConfigDict(extra="forbid")

    at: str = Field(description="Where in the request, as rows[3].units.", examples=["rows[3].units"])
    message: str = Field(description="What is expected there.", examples=["Input should be a valid number"])


class Problem(BaseModel):
    """An error: what was found and what to do."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Not Found",
                    "status": 404,
                    "code": "unknown-series",
                    "detail": "1 of 1 series is not in the sales file: north/tea.",
                    "hint": "GET /v1/series lists all ids.",
                }
            ]
        },
    )

    type: str = Field(description="about:blank: the status says what kind of error it is.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status.")
    code: str = Field(description="A stable name for programs.")
    detail: str = Field(description="What was found.")
    hint: str = Field(description="What is allowed and what to do next.")
    errors: list[WrongPlace] | None = Field(default=None, description="The places that do not fit, at most 20.")


class ProblemError(HTTPException):
    """An error that the caller is told.

    Args:
        status: HTTP status.
        code: A stable name for programs.
        detail: What was found.
        hint: What to do.
        errors: Places that do not fit.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        hint: str,
        *,
        errors: Sequence[WrongPlace] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, code, dict(headers or {}))
        self.problem = Problem(
            type="about:blank",
            title=HTTPStatus(status).phrase,
            status=status,
            code=code,
            detail=detail,
            hint=hint,
            errors=list(errors) or None,
        )


def answer(error: ProblemError) -> JSONResponse:
    """The response."""
    return JSONResponse(
        error.problem.model_dump(exclude_none=True),
        status_code=error.problem.status,
        headers=error.headers,
        media_type=MEDIA_TYPE,
    )


def not_fitting(found: Sequence[Mapping[str, Any]]) -> ProblemError:
    """400 from pydantic's list of errors; the values themselves are left out."""
    places = [WrongPlace(at=_place(one), message=_message(one)) for one in found[:_SHOWN]]
    count = len(found)
    return ProblemError(
        400,
        "invalid-request",
        f"The request does not fit in {count} place{'s' if count != 1 else ''}.",
        "Correct the places under errors; /openapi.json describes every field with examples.",
        errors=places,
    )


def _place(error: Mapping[str, Any]) -> str:
    location: Sequence[int | str] = error["loc"]
    parts = [part for part in location if part not in ("body", "query", "path")]
    if not parts or error["type"] == "json_invalid":
        return str(location[0] if location else "body")
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")


def _message(error: Mapping[str, Any]) -> str:
    if error["type"] == "json_invalid":
        return f"This is not JSON: {error['ctx']['error']}, at character {error['loc'][-1]}"
    if error["type"] == "model_attributes_type":
        return "A JSON object is expected, with the header Content-Type: application/json"
    return str(error["msg"]).removeprefix("Value error, ")


_WORDS: Final = {
    400: "The request does not fit the schema; errors names the places.",
    401: "The token is missing or wrong.",
    404: "A series is not in the sales file.",
    409: "The service has no sales file, or no such model.",
    413: "The request is too large.",
    422: "The request fits the schema, and its sales cannot be used; the detail says why.",
    503: "Too many wait, or the model is not loaded yet; Retry-After says when to ask again.",
}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of an endpoint for OpenAPI."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        found[status] = {
            "description": _WORDS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        if status == 503:
            found[status]["headers"] = {
                "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
            }
        if status == 401:
            found[status]["headers"] = {"WWW-Authenticate": {"description": "Bearer.", "schema": {"type": "string"}}}
    return found
