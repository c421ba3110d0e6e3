"""Data sets of the Hugging Face hub, through its own client, from a local stand-in of the hub."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from made_pairs import make_pairs, rows, write_folder, write_parquet, write_tar

from rhocache_schemas import storage
from rhocache_schemas.dataset.formats import open_dataset, read_shard
from rhocache_schemas.dataset.source import Source
from rhocache_schemas.errors import DatasetError, InvalidInput, StorageError

REPOSITORY = "hf://datasets/org/name"


class Hub(ThreadingHTTPServer):
    """The endpoints that HfFileSystem asks, over the folders REVISION/... of ``root``."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.asked: list[str] = []
        self.broken = False


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.server.asked.append(path)
        if self.server.broken:
            self._answer(500, b"broken")
        elif path.startswith("/api/datasets/org/name"):
            kind, _, rest = path.removeprefix("/api/datasets/org/name").lstrip("/").partition("/")
            revision, _, folder = rest.partition("/")
            root = self.server.root / (revision or "main")
            if not root.is_dir():
                self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            elif kind == "tree":
                deep = parse_qs(url.query).get("recursive", ["false"])[0].lower() == "true"
                self._tree(root, root / folder, deep=deep)
            else:
                info = {"id": "org/name", "sha": "0" * 40, "private": False, "siblings": []}
                self._answer(200, json.dumps(info | {"tags": [], "downloads": 0}).encode())
        elif path.startswith("/datasets/org/name/resolve/"):
            file = self.server.root / path.removeprefix("/datasets/org/name/resolve/")
            self._file(file.read_bytes())
        else:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _tree(self, root: Path, folder: Path, *, deep: bool) -> None:
        if not folder.is_dir():
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        found = sorted(folder.rglob("*") if deep else folder.iterdir())
        listed = [
            {"path": str(each.relative_to(root)), "oid": "0" * 40}
            | (
                {"type": "directory", "size": 0}
                if each.is_dir()
                else {"type": "file", "size": each.stat().st_size}
            )
            for each in found
        ]
        self._answer(200, json.dumps(listed).encode())

    def _file(self, data: bytes) -> None:
        asked = self.headers.get("Range")
        if asked is None:
            self._answer(200, data)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        self._answer(206, data[int(first) : int(last or len(data)) + 1])

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(tmp_path / "hub")
    main = server.root / "main"
    content = [{"image": row["image"], "caption": row["caption"]} for row in rows()]
    for shard in range(2):
        write_tar(main / "tars" / f"{shard:05}.tar", make_pairs(shard))
    write_folder(main / "files" / "a", make_pairs(0))
    (main / "data").mkdir()
    write_parquet(main / "data" / "train-0.parquet", content)
    (main / "README.md").write_text("about it")
    (server.root / "v1" / "data").mkdir(parents=True)
    write_parquet(server.root / "v1" / "data" / "train-0.parquet", content[:3])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("place", "kind", "shards", "pairs"),
    [
        ("/data", "parquet", ["train-0.parquet#00000"], 24),
        ("@v1/data", "parquet", ["train-0.parquet#00000"], 3),
        ("/data/train-0.parquet", "parquet", ["train-0.parquet#00000"], 24),
        ("/tars", "webdataset", ["00000.tar", "00001.tar"], 24),
        ("/tars/{00000..00001}.tar", "webdataset", ["00000.tar", "00001.tar"], 24),
        ("/files", "folder", ["files#00000"], 12),
    ],
)
def test_every_kind_is_read(hub: Hub, place: str, kind: str, shards: list[str], pairs: int) -> None:
    source = Source(dataset=REPOSITORY + place)
    dataset = open_dataset(source)
    assert dataset.kind == kind
    assert [shard.name for shard in dataset.shards] == shards
    read = [pair for shard in dataset.shards for pair in read_shard(shard, source)]
    assert [pair.error for pair in read] == [None] * pairs
    made = {row["image"]: row["caption"] for row in rows()}
    assert all(made[pair.image] == pair.caption for pair in read)
    assert storage.exists(REPOSITORY + "/README.md")
    assert not storage.exists(REPOSITORY + "/LICENSE")
    assert storage.read_bytes(REPOSITORY + "/README.md") == b"about it"


def test_what_is_not_there(hub: Hub) -> None:
    for place in ("hf://datasets/org/other/x", f"{REPOSITORY}@v9/data", f"{REPOSITORY}/nowhere"):
        with pytest.raises(DatasetError, match="no dataset at"):
            open_dataset(Source(dataset=place))
    for place in ("hf://datasets/org", "hf://models/org/name", "hf://datasets//name/x"):
        with pytest.raises(InvalidInput, match="names no data set; write hf://datasets/ORG/NAME"):
            open_dataset(Source(dataset=place))
    with pytest.raises(InvalidInput, match="credentials in a URI"):
        open_dataset(Source(dataset="hf://user:password@datasets/org/name"))


def test_nothing_is_written(hub: Hub) -> None:
    asked = len(hub.asked)
    for write in (lambda uri: storage.write_atomic(uri, b"x"), storage.delete):
        with pytest.raises(InvalidInput, match="hf:// is only read; choose a folder or bucket"):
            write(f"{REPOSITORY}/cache/plan.json")
    assert len(hub.asked) == asked


def test_a_hub_that_fails(hub: Hub) -> None:
    hub.broken = True
    with pytest.raises(StorageError, match="500"):
        storage.read_bytes(f"{REPOSITORY}/README.md")
