"""What a job is called."""

from typing import Any

import pytest

from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.job.names import name_of


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "pairs → ViT-B-32"),
        (
            {"dataset": "s3://bucket/cc12m/{00000..00009}.tar"},
            "cc12m/{00000..00009}.tar → ViT-B-32",
        ),
        ({"metadata": {"name": " the first "}}, "the first"),
        ({"metadata": {"name": " "}}, "pairs → ViT-B-32"),
    ],
)
def test_a_job_is_called_by_its_name_or_its_data(changes: dict[str, Any], name: str) -> None:
    reference = {"model": "local-dir:/models/ViT-B-32"}
    asked = {"dataset": "/data/pairs/", "output": "/caches/a", "reference": reference}
    assert name_of(ScoreSpec.model_validate(asked | changes)) == name
