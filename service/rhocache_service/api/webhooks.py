"""What the service sends by itself, for its OpenAPI document."""

from typing import Annotated

from fastapi import APIRouter, Header

from rhocache_schemas.events import JobEnded

router = APIRouter(tags=["webhooks"])


@router.post(
    "job-ended",
    operation_id="job_ended",
    status_code=204,
    summary="A job has come to its end",
    responses={"default": {"description": "It was not received, and is sent again later"}},
)
def job_ended(
    body: JobEnded,
    webhook_id: Annotated[str, Header(description="the same at each try")],
    webhook_timestamp: Annotated[int, Header(description="Unix second of this try")],
    webhook_signature: Annotated[
        str, Header(description="v1,BASE64 of HMAC-SHA256 over ID.TIMESTAMP.BODY")
    ],
) -> None:
    """Sent to a job's ``webhook`` as Standard Webhooks has it, at least once: any 2xx receives it,
    anything else has it sent again, for about a day."""
