import os
import stat
from pathlib import Path

import pytest
from pyarrow import fs

from rhocache_schemas import storage
from rhocache_schemas.errors import InvalidInput, StorageError


def test_local_names_of_one_file_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for uri in ("x/y", f"{tmp_path}/x/y", f"file://{tmp_path}/x/y"):
        filesystem, path = storage.resolve(uri)
        assert isinstance(filesystem, fs.LocalFileSystem)
        assert path == f"{tmp_path}/x/y"


def test_credentials_in_a_uri_are_refused_and_not_told() -> None:
    for uri in ("s3://AKIA:secret@bucket/key", "gs://secret@bucket", "s3://secret@"):
        with pytest.raises(InvalidInput, match="credentials in a URI") as caught:
            storage.resolve(uri)
        assert "secret" not in str(caught.value)
    assert storage.scheme("s3://bucket/a@b") == "s3"


@pytest.mark.parametrize("uri", ["http://host/x", "pipe:cat x", "ftp://x", "s3://", "s3:///key"])
def test_other_places_are_refused(uri: str) -> None:
    with pytest.raises(InvalidInput):
        storage.resolve(uri)


def test_write_read_delete(tmp_path: Path) -> None:
    uri = str(tmp_path / "new" / "folder" / "file")
    storage.write_atomic(uri, b"one")
    storage.write_atomic(uri, b"two")
    assert storage.read_bytes(uri) == b"two"
    assert [path.name for path in Path(uri).parent.iterdir()] == ["file"]
    storage.delete(uri)
    storage.delete(uri)
    assert not storage.exists(uri)


def test_until_it_is_committed_a_file_is_hidden_and_can_be_discarded(tmp_path: Path) -> None:
    uri, mask = str(tmp_path / "file"), os.umask(0o027)
    try:
        with storage.AtomicFile(uri) as target:
            target.write(b"half")
            (temporary,) = tmp_path.iterdir()
            assert temporary.name.startswith(".file.")
            storage.discard_temporaries(str(tmp_path))
            assert list(tmp_path.iterdir()) == []
            with pytest.raises(StorageError, match=f"cannot write {uri}: No such file"):
                target.commit()
        storage.write_atomic(uri, b"whole")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(Path(uri).stat().st_mode) == 0o640


def test_errors_name_the_place_and_the_cause(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*/nothing: No such file or directory$"):
        storage.read_bytes(str(tmp_path / "nothing"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot write .*/file/below: File exists$"):
        storage.write_atomic(str(tmp_path / "file" / "below"), b"x")


def test_a_full_disk_leaves_what_was_there(small_disk: Path) -> None:
    uri = str(small_disk / "file")
    storage.write_atomic(uri, b"before")
    with pytest.raises(StorageError, match="No space left on device"):
        storage.write_atomic(uri, bytes(1_000_000))
    assert storage.read_bytes(uri) == b"before"
    assert [path.name for path in small_disk.iterdir()] == ["file"]
