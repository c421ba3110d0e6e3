"""``/v1/models``: what a job's reference may name."""

import json
from importlib.resources import files

from fastapi import APIRouter

from rhocache_schemas.api import Model, ModelList
from rhocache_service.api.auth import ReadsJobs

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="List models")
def list_models(_: ReadsJobs) -> ModelList:
    """List open_clip's architectures with their pretrained weights.

    ``local-dir:PATH`` and ``hf-hub:ORG/REPO`` name others.
    """
    listed: dict[str, list[str]] = json.loads(
        files("rhocache_service.api").joinpath("models.json").read_bytes()
    )
    return ModelList(
        data=[Model(id=name, pretrained=tags) for name, tags in sorted(listed.items())]
    )
