"""Errors as REST answers tell them: RFC 9457, application/problem+json."""

from pydantic import BaseModel


class FieldError(BaseModel):
    pointer: str  # JSON pointer into the request body
    detail: str


class Problem(BaseModel):
    """application/problem+json."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[FieldError] = []
