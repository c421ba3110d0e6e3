import errno
import os
import pwd
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


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("file:///a%20b/%C3%A9%2525.tar", "/a b/é%25.tar"),
        ("file:/a%23b", "/a#b"),
        ("file://localhost/a", "/a"),
        ("file:///a#b?c%zz", "/a#b?c%zz"),
        ("/a%20b", "/a%20b"),
        ("file:///~/x", "/~/x"),
        ("~", "/home"),
        ("~/x y", "/home/x y"),
        ("./~/x", "/work/~/x"),
        ("x~/y", "/work/x~/y"),
        ("-x", "/work/-x"),
        ("$HOME", "/work/$HOME"),
    ],
)
def test_what_a_local_location_means(
    location: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", f"{tmp_path}/home")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    beneath = path.startswith(("/home", "/work"))
    wanted = f"{tmp_path}{path}" if beneath else path
    assert storage.resolve(location)[1] == wanted
    assert storage.join(location, "100%", "a#b") in (f"{wanted}/100%/a#b", f"{location}/100%/a#b")
    assert storage.resolve(storage.join(location, "a%20b"))[1] == f"{wanted}/a%20b"
    assert storage.resolve(storage.plain(location))[1] == wanted


def test_a_home_of_another_user() -> None:
    assert storage.resolve("~root/x")[1] == f"{pwd.getpwnam('root').pw_dir}/x"
    with pytest.raises(InvalidInput, match=r"no home folder '~nobody-here'; write ./~nobody-here"):
        storage.resolve("~nobody-here/x")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("file://host/share/x", "is not on this machine; write file:///FOLDER"),
        ("file://x", "is not on this machine"),
        ("file://", "is not on this machine"),
        ("/a\0b", "NUL"),
        ("file:///a%00b", "NUL"),
        ("/caf\udce9/x", r"'/caf\\udce9/x' is not UTF-8"),
        ("file:///caf%E9", r"'/caf\\udce9' is not UTF-8"),
        ("s3://bucket/caf\udce9", "is not UTF-8"),
    ],
)
def test_a_location_that_can_not_be(location: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        storage.resolve(location)


def test_an_objects_key_is_what_the_uri_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for key in ("a%20b", "a b", "~", "x?y=1", "x#y", "{0}"):
        assert storage.resolve(f"s3://bucket/{key}")[1] == f"bucket/{key}"


@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_a_folder_that_can_not_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    """As on some file systems of a network, or of FUSE. A file that can't is an error."""
    synced, fsync = [], os.fsync

    def refuse(handle: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(handle).st_mode))
        if synced[-1] is not files_too:
            raise OSError(refusal, os.strerror(refusal))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    files_too = False
    storage.write_atomic(str(tmp_path / "file"), b"data")
    assert (tmp_path / "file").read_bytes() == b"data"
    assert synced == [False, True]
    files_too = True
    with pytest.raises(StorageError, match="cannot write"):
        storage.write_atomic(str(tmp_path / "other"), b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


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
