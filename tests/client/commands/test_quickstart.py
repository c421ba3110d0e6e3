"""The first command that a newcomer types, on what is shipped."""

from pathlib import Path

import pytest

from rhocache.commands import quickstart
from rhocache_schemas.cache.documents import Manifest

from ..test_cli import here


def test_it_goes_the_whole_way_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "_EPOCHS", 1)
    told = here("quickstart").stdout
    assert Manifest.read("caches/quickstart/manifest.json").ok == 2048
    assert "runs/quickstart/model" in told
    assert Path("runs/quickstart/model/open_clip_config.json").exists()
    assert "What next" in told
    for place in ("examples/icons/00000.tar", "examples/reference", "examples/configs/drrho.yaml"):
        assert Path(place).exists()
    assert "2, 0 of them encoded by this run" in here("quickstart").stdout
