"""The hostile corpus through the encoder: each case yields its rows, the good pairs theirs."""

from pathlib import Path

import hostile
import numpy as np
import pytest

from rhocache_schemas.cache import shard_file
from rhocache_schemas.cache.shard_file import ShardRows
from rhocache_schemas.dataset.shards import Shard, list_shards
from rhocache_schemas.errors import ShardError
from rhocache_schemas.job.kinds.score import ScoreSpec
from rhocache_schemas.reference import ReferenceSpec
from rhocache_workers.encode.encoder import Encoder

CORPUS = hostile.corpus()


@pytest.fixture(scope="module", params=[None, "caption"])
def encoder(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    reference_folder: Path,
) -> Encoder:
    spec = ScoreSpec(
        dataset="unused",
        output=str(tmp_path_factory.mktemp("cache")),
        reference=ReferenceSpec(model=f"local-dir:{reference_folder}"),
        caption_field=request.param,
        dtype="float32",
        batch_size=16,
        metadata={},
    )
    made = Encoder(spec, threads=2)
    *_, _ = made.load({})
    return made


def test_each_case_yields_its_rows_and_no_other_row_feels_it(
    encoder: Encoder, tmp_path: Path
) -> None:
    field = encoder._spec.caption_field
    cases = [case for case in CORPUS if case.caption_field == field]
    for case in cases:
        (tmp_path / f"{case.name}.tar").write_bytes(case.shard)
    calm = hostile.Case("calm", "two good pairs", b"", [], field)
    (tmp_path / "calm.tar").write_bytes(calm.shard)
    shards = {shard.name.removesuffix(".tar"): shard for shard in list_shards(str(tmp_path))}
    _, good = encode(encoder, shards["calm"])
    assert good is not None
    for case in cases:
        outcome, rows = encode(encoder, shards[case.name])
        if rows is None:
            assert outcome == case.expected, case.name
            continue
        assert rows.status == list(case.expected), case.name
        if not case.whole:
            np.testing.assert_array_equal(rows.image[[0, -1]], good.image, case.name)
            np.testing.assert_array_equal(rows.text[[0, -1]], good.text, case.name)


def encode(encoder: Encoder, shard: Shard) -> tuple[str, ShardRows | None]:
    """The error's code, or the rows of the file."""
    *_, outcome = encoder.encode(shard)
    if isinstance(outcome, ShardError):
        return str(outcome.code), None
    file = Path(encoder._spec.output, "shards", f"{shard.name}.parquet")
    return "ok", shard_file.decode(file.read_bytes(), shard.name)[0]
