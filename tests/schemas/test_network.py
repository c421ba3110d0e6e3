import socket
import tempfile
from pathlib import Path

import pytest

from rhocache_schemas import network
from rhocache_schemas.errors import StorageError


@pytest.mark.parametrize("name", ["t" * 100, "a b", "é", "x" * 40 + "/%"])
def test_a_folder_of_ones_own_that_will_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    folder = network.short_folder(network.RAY)
    assert folder != str(tmp_path / name)
    with tempfile.NamedTemporaryFile(dir=folder) as place, socket.socket(socket.AF_UNIX) as bound:
        ends = "x" * (network.RAY + len(folder) - len(place.name))
        bound.bind(place.name + ends)
        Path(place.name + ends).unlink()


def test_rays_own_variable_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        assert network.short_folder(network.RAY) == short


def test_no_folder_will_do() -> None:
    with pytest.raises(StorageError, match=r"no folder for sockets: .*'/tmp'.*; set TMPDIR to one"):
        network.short_folder(104)
