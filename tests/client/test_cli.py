"""The command as its users run it: what it prints where, and how it ends."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import pytest
from caches import FINGERPRINT, flip_index

from rhocache import Client
from rhocache.cli import main
from rhocache.commands.tables import short_id
from rhocache_schemas import layout, storage
from rhocache_schemas.cache.documents import Plan
from rhocache_schemas.job.spec import JobState
from rhocache_service.registry.caches import Committed
from rhocache_service.registry.jobs import Registry
from rhocache_service.registry.tables import open_database, parse_url

from ..service.made import SHARD, completed, make_cache

COMMAND = str(Path(sys.executable).with_name("rhocache"))
EXAMPLES = Path(__file__).parents[2] / "examples" / "openclipart"
GOLDEN = Path(__file__).parents[1] / "schemas" / "cache" / "golden-1"
Run = Callable[..., subprocess.CompletedProcess[str]]


def run(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [COMMAND, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def here(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The same in this process, which has loaded torch already."""
    command = [COMMAND, *map(str, arguments)]
    out, errors = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", command),
        mock.patch.dict(os.environ, COLUMNS="200"),
        redirect_stdout(out),
        redirect_stderr(errors),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert (ended.value.code or 0) == code, errors.getvalue()
    return subprocess.CompletedProcess(command, code, out.getvalue(), errors.getvalue())


def error_line(*arguments: str | Path, code: int, run: Run = run) -> str:
    done = run(*arguments, code=code)
    assert done.stdout == ""
    assert done.stderr.startswith("rhocache: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_what_a_name_holds_is_not_for_the_terminal_to_obey(tmp_path: Path) -> None:
    line = error_line("inspect", tmp_path / "a\x1b[2J\u202e\nb", code=1)
    assert r"a\x1b[2J\u202e\nb" in line


@pytest.fixture
def submit(url: str, root: Path) -> Callable[[], str]:
    def submit() -> str:
        done = run("submit", root / "data", "--model", f"local-dir:{root}/model",
                   "--out", root / "cache", "--url", url, "--json")  # fmt: skip
        return json.loads(done.stdout)["id"]

    return submit


def test_a_command_loads_no_room_that_it_does_not_use() -> None:
    heavy = {"torch", "open_clip", "ray", "fastapi", "sqlalchemy", "pandas", "matplotlib"}
    code = f"import rhocache.cli, sys; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (["score", "d", "--model", "local-dir:m", "--out", "o"], "ray", "workers"),
        (["score", "d", "--model", "local-dir:m", "--out", "o", "--here"], "open_clip", "workers"),
        (["quickstart"], "open_clip", "workers"),
        (["plan", "d", "--model", "m"], "torch", "workers"),
        (["serve"], "fastapi", "service"),
        (["train", "c.yaml"], "torch", "trainer"),
        (["evaluate", "m", "d"], "open_clip", "trainer"),
        (["losses", "c", "--out=o"], "ray", "workers"),
        (["report", "r"], "matplotlib", "trainer"),
    ],
)
def test_a_missing_extra_is_named(arguments: list[str], package: str, extra: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from rhocache.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"rhocache: error: this command needs the {extra} extra ({package} is not installed): "
        f"pip install 'rhocache[{extra}] @ git+https://github.com/rhocache/rhocache'\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["score"],
        ["score", "d", "--model", "m"],
        ["jobs", "show"],
        ["verify", "c", "--sample", "x"],
        ["jobs", "list", "--limit", "0"],
        ["jobs", "list", "--status", "lost"],
        ["train", "c.yaml", "--resume", "perhaps"],
        ["train", "c.yaml", "--launcher", "slurm"],
    ],
)
def test_bad_usage(arguments: list[str]) -> None:
    assert "Usage: rhocache" in run(*arguments, code=2).stderr


def test_the_bare_command_says_what_to_do_next() -> None:
    assert "rhocache quickstart" in run().stdout
    assert run("--version").stdout == f"{version('rhocache')}\n"
    assert run("-h").stdout == run("--help").stdout
    assert run("jobs", "list", "-h").stdout == run("jobs", "list", "--help").stdout
    assert "--show-completion" in run("-h").stdout


def test_help_shows_each_default() -> None:
    told = run("serve", "--help").stdout
    for default in ("127.0.0.1", "8321", "rhocache-data", "SQLite in the data dir", "1."):
        assert f"default: {default}" in told


def test_models_are_found_by_a_part_of_a_name() -> None:
    found = json.loads(run("models", "vit-b-32", "--json").stdout)
    assert "openai" in found["ViT-B-32"]
    assert all("vit-b-32" in name.lower() for name in found)
    assert set(
        json.loads(run("models", "metaclip_400m", "--json").stdout)["ViT-B-16-quickgelu"]
    ) == {"metaclip_400m"}
    assert "no model of open_clip's" in run("models", "zebra", code=1).stderr
    line = error_line(
        "score", EXAMPLES, "--model=ViT-B32", "--pretrained=openai", "--out=o", code=2
    )
    assert "did you mean ViT-B-32" in line


def test_what_the_service_finds_wrong_is_bad_usage_too(url: str, root: Path) -> None:
    wrong = [root / "data", "--model=ViT-B32", "--pretrained=openai", "--out", root / "cache"]
    line = error_line("submit", *wrong, "--url", url, code=2)
    assert "did you mean ViT-B-32" in line


def test_caches_are_listed_and_what_failed_in_them(tmp_path: Path) -> None:
    captions = {f"{number:03}": "a caption" for number in range(50)}
    spec = make_cache(tmp_path / "here", captions, missing="bad")
    poor = make_cache(tmp_path / "poor", captions, missing="007")
    begun = Plan.begin(poor, FINGERPRINT, [SHARD], {})
    storage.write_atomic(f"{tmp_path}/begun/plan.json", begun.to_json())
    storage.write_atomic(layout.plan_file(poor.output), begun.to_json())
    listed = json.loads(run("caches", tmp_path, "--json").stdout)
    assert {each["cache"]: (each["state"], each["pairs"], each["failed"]) for each in listed} == {
        spec.output: ("complete", 50, 0),
        poor.output: ("complete", 50, 1),
        f"{tmp_path}/begun": ("begun", None, None),
    }
    assert "dataset → model" in run("caches", tmp_path).stdout
    assert "no cache in" in run("caches", EXAMPLES).stdout
    assert "no folder" in error_line("caches", tmp_path / "absent", code=1)

    failed = json.loads(run("errors", poor.output, "--json").stdout)
    assert failed["image_missing"]["count"] == 1
    assert failed["image_missing"]["samples"][0]["key"] == "007"
    assert f"{SHARD}: 007" in run("errors", poor.output).stdout
    assert run("errors", poor.output, "--code=text_missing").stdout == (
        "nothing failed with text_missing\n"
    )
    assert "there is no cache" in error_line("errors", tmp_path, code=1)


def test_a_cache_is_deleted_by_who_says_so(tmp_path: Path) -> None:
    spec = make_cache(tmp_path / "here", {"one": "1", "two": "2"})
    assert "give --yes" in error_line("delete", spec.output, code=2)
    assert "would delete 4 files" in run("delete", spec.output, "--dry-run").stdout
    assert Path(spec.output, "manifest.json").exists()
    Path(spec.output, "mine.txt").touch()
    told = run("delete", spec.output, "--yes").stdout
    assert "deleted 4 files" in told
    assert "mine.txt is not the cache's: it stays" in told
    assert [path.name for path in Path(spec.output).iterdir()] == ["mine.txt"]
    assert "there is no cache" in error_line("delete", spec.output, "--yes", code=1)


def test_the_doctor_looks_at_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("RHOCACHE_DATABASE_URL", f"sqlite:///{tmp_path}/registry.sqlite")
    checks = json.loads(here("doctor", "--storage", tmp_path, "--json").stdout)
    found = {check["name"]: check["state"] for check in checks}
    assert {
        name: found[name] for name in ("Python", "workers", "trainer", "database", "storage")
    } == (dict.fromkeys(("Python", "workers", "trainer", "database", "storage"), "ok"))
    assert found["hub"] == "note"
    assert not list(tmp_path.glob(".rhocache-doctor*"))
    monkeypatch.setenv("RHOCACHE_DATABASE_URL", "mysql://somewhere")
    checks = json.loads(here("doctor", "--json", code=1).stdout)
    (bad,) = [check for check in checks if check["state"] == "bad"]
    assert (bad["name"], "not postgresql://" in bad["found"]) == ("database", True)
    assert bad["found"] in " ".join(here("doctor", code=1).stdout.split())


def test_a_lost_registry_is_made_from_storage(tmp_path: Path) -> None:
    made = make_cache(tmp_path / "team" / "made", {"0": "a", "1": "b"}, missing="1")
    golden = shutil.copytree(GOLDEN, tmp_path / "team" / "golden")
    begun = shutil.copytree(GOLDEN, tmp_path / "team" / "begun")
    (begun / "manifest.json").unlink()
    registry = f"--database-url=sqlite:///{tmp_path}/registry.sqlite"
    assert run("migrate", registry).stdout.endswith("is at revision 0007\n")
    told = run("import-caches", tmp_path / "team", registry).stdout
    assert f"{made.output}: 2 pairs\n" in told
    assert f"{begun} is passed over: it is not complete\n" in told
    assert told.endswith("2 caches are in the registry now\n")
    assert run("import-caches", tmp_path / "team", registry).stdout == told, "once, if done twice"
    engine = open_database(parse_url(f"sqlite:///{tmp_path}/registry.sqlite"))
    rows = Committed(engine).newest(10)
    engine.dispose()
    manifests = [json.loads((Path(row.uri) / "manifest.json").read_text()) for row in rows]
    assert {row.uri for row in rows} == {made.output, str(golden)}
    assert [row.fingerprint for row in rows] == [each["fingerprint_sha256"] for each in manifests]
    (golden / "manifest.json").write_text("{}")
    both = ["import-caches", tmp_path / "team", registry]
    told = run(*both, code=1)
    assert "manifest.json" in told.stderr
    assert told.stdout.endswith("1 caches are in the registry now\n"), "the others are taken"
    assert "there is no folder" in error_line("import-caches", tmp_path / "absent", code=1)


def test_errors_are_one_line(tmp_path: Path) -> None:
    model = ["--model", f"local-dir:{tmp_path}", "--out", tmp_path / "cache"]
    assert "no dataset at" in error_line("score", tmp_path / "absent", *model, code=1)
    assert "unknown.example" in error_line("inspect", "ftp://unknown.example", code=2)
    line = error_line("score", EXAMPLES, *model, "--precision", "fp8", code=2)
    assert "precision: Input should be 'fp32', 'bf16' or 'fp16'" in line
    line = error_line("score", EXAMPLES, "--model", "ViT-B-32", "--out", "c", code=2)
    assert "needs pretrained" in line
    line = error_line("score", EXAMPLES, *model, "--reuse", tmp_path, "--reuse", "ftp://x", code=2)
    assert "ftp://x" in line
    line = error_line("score", EXAMPLES, *model, "--batch-size", "many", code=2)
    assert "batch_size" in line
    line = error_line("plan", EXAMPLES, "--model", "ViT-B-32", "--pairs", "0", code=2)
    assert "at least one" in line
    line = error_line("jobs", "list", "--url", "http://127.0.0.1:9", code=1)
    assert "no service answers at http://127.0.0.1:9" in line


def test_a_damaged_index_is_named(tmp_path: Path, root: Path, url: str, registry: Registry) -> None:
    cache = shutil.copytree(GOLDEN, tmp_path / "golden")
    told = flip_index(cache)
    assert re.search(told, error_line("inspect", cache, code=1))
    found = json.loads(run("verify", cache, "--json", code=1).stdout)
    assert (found["ok"], [each["where"] for each in found["findings"]]) == (
        False,
        ["index.parquet"],
    )
    assert re.search(told, found["findings"][0]["problem"])
    made = make_cache(root / "made", {"0": "a"})
    row = completed(registry, made)
    told = flip_index(made.output)
    line = error_line("jobs", "errors", row.id, "--url", url, code=1)
    assert re.search(f"The cache is damaged: .*{told}", line)


def test_a_cache_is_converted_exported_imported_and_not_merged_with_itself(tmp_path: Path) -> None:
    cache = tmp_path / "int8"
    told = run("convert", GOLDEN, "--dtype", "int8", "--out", cache, "--json").stdout
    assert (json.loads(told)["ok"], "64 bits" in told) == (6, True)
    assert "r/0.01 ±" in run("inspect", cache).stdout
    npy = tmp_path / "npy"
    assert json.loads(run("export", cache, "--format", "npy", "--out", npy, "--json").stdout)["ok"]
    back = "import", npy, "--format", "clip-retrieval", "--out", tmp_path / "back"
    assert "ok" in run(*back, "--model", "ViT-B-32", "--pretrained", "openai").stdout
    line = error_line("merge", cache, cache, "--out", tmp_path / "both", code=2)
    assert "caches that are merged have no shard in common" in line
    line = error_line("convert", GOLDEN, "--dtype", "int4", "--out", tmp_path / "x", code=2)
    assert "'int4' is not one of float32, float16, int8" in line


def test_jobs_are_listed_shown_and_cancelled(url: str, submit: Callable[[], str]) -> None:
    first, second = submit(), submit()
    listed = run("jobs", "list", "--url", url, "--limit=2").stdout
    assert listed.index(short_id(second)) < listed.index(short_id(first))
    older = run("jobs", "list", "--url", url, "--limit=1", "--after", short_id(second)).stdout
    assert short_id(first) in older
    assert "validating" in run("jobs", "show", first, "--url", url).stdout
    assert json.loads(run("jobs", "cancel", first, "--url", url, "--json").stdout)["id"] == first
    run("jobs", "watch", first, "--url", url, "--json", code=1)  # it never had a driver
    found = json.loads(run("jobs", "list", "--url", url, "--status=cancelled", "--json").stdout)
    assert first in {job["id"] for job in found["data"]}
    metadata = "--metadata=for=a test"
    with Client(url) as client:
        spec = client.jobs.get(second).spec.model_copy(update={"metadata": {"for": "a test"}})
        noted = client.jobs.submit(spec).id
    found = json.loads(run("jobs", "list", "--url", url, metadata, "--json").stdout)
    assert [job["id"] for job in found["data"]] == [noted]
    wrong = error_line("jobs", "list", "--url", url, "--metadata=for", code=2)
    assert "'for' is not of the form KEY=VALUE" in wrong
    line = error_line("jobs", "cancel", first, "--url", url, code=1)
    assert f"job {first} is cancelled" in line
    unknown = f"job_{0:024}"
    assert f"no job '{unknown}'" in error_line("jobs", "show", unknown, "--url", url, code=1)


def test_what_failed_is_listed_tried_again_and_forgotten(
    url: str, registry: Registry, root: Path
) -> None:
    spec = make_cache(root / "poor", {"good": "a caption", "bad": "another"}, missing="bad")
    job = completed(registry, spec).id
    (failed,) = json.loads(run("jobs", "errors", job, "--url", url, "--json").stdout)["data"]
    assert (failed["shard"], failed["key"], failed["code"]) == (SHARD, "bad", "image_missing")
    assert re.search(
        rf"{SHARD}.* bad .*image_missing", run("jobs", "errors", job, "--url", url).stdout
    )
    other = run("jobs", "errors", job, "--code=text_missing", "--url", url, "--json").stdout
    assert json.loads(other)["data"] == []

    again = json.loads(run("jobs", "retry", job, "--url", url, "--json").stdout)
    assert (again["retries"], again["spec"]["retry_failed"]) == (job, True)
    refused = error_line("jobs", "delete", again["id"], "--url", url, code=1)
    assert "is validating: cancel it first" in refused
    assert "it goes on" in error_line("jobs", "retry", again["id"], "--url", url, code=1)

    assert run("jobs", "delete", job, "--url", url).stdout == ""
    assert f"no job '{job}'" in error_line("jobs", "show", job, "--url", url, code=1)
    assert Path(spec.output, "manifest.json").exists(), "its cache stays"


def test_a_job_is_known_by_its_first_digits_or_its_name(url: str, root: Path) -> None:
    spec = [root / "data", "--model", f"local-dir:{root}/model", "--out", root / "named"]
    made = run("submit", *spec, "--metadata", "name=clip art", "--url", url, "--json").stdout
    job = json.loads(made)["id"]
    for name in (job, short_id(job), f"job_{short_id(job)}", "clip art"):
        assert json.loads(run("jobs", "show", name, "--url", url, "--json").stdout)["id"] == job
    assert "clip art" in run("jobs", "list", "--url", url).stdout
    line = error_line("jobs", "show", "zebra", "--url", url, code=2)
    assert "job 'zebra' is none of the newest 100" in line
    line = error_line("jobs", "show", "", "--url", url, code=2)
    assert "job '' is job_" in line


def test_watching_a_cancelled_job_fails(
    url: str, registry: Registry, submit: Callable[[], str]
) -> None:
    row = registry.get(submit())
    assert row is not None
    registry.advance(row, JobState.CANCELLING)  # the service does the rest
    done = run("jobs", "watch", row.id, "--url", url, "--json", code=1)
    assert json.loads(done.stdout)["status"] == "cancelled"
    assert done.stderr.splitlines()[-1] == f"rhocache: error: job {row.id} was cancelled"


def test_ctrl_c(url: str, submit: Callable[[], str]) -> None:
    # A shell's background jobs ignore SIGINT, and their children, this suite among them, with them.
    terminal = ["env", "--default-signal=INT"]
    job = submit()
    watch = [COMMAND, "jobs", "watch", job, "--url", url]
    with subprocess.Popen([*terminal, *watch], stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stderr is not None
        assert watching.stderr.readline() == "0:00 validating\n"
        watching.send_signal(signal.SIGINT)
        assert watching.stderr.read() == (
            f"job {job} goes on without you; `rhocache jobs cancel {short_id(job)}` stops it\n"
            "rhocache: interrupted; what is done is kept\n"
        )
    assert watching.returncode == 130


def test_a_plan(reference_folder: Path) -> None:
    model = ["--model", f"local-dir:{reference_folder}"]
    planned = json.loads(here("plan", EXAMPLES, *model, "--device=h100", "--json").stdout)
    assert planned["shards"] == 4
    assert planned["pairs"] == pytest.approx(2048, rel=0.01)
    assert planned["device"]["name"] == "h100"
    assert {"work", "predicted_hours", "measured_hours", "storage"} <= planned.keys()
    measured = here("plan", EXAMPLES, *model, "--measure").stdout
    assert "4 shards, 9.4 MB" in measured
    assert "times the predicted" in measured


def test_a_cache_is_made_looked_at_and_checked(
    tmp_path: Path, reference_folder: Path, ray_address: str
) -> None:
    cache = tmp_path / "cache"
    done = run("score", EXAMPLES, "--shards=00000.tar", "--model", f"local-dir:{reference_folder}",
               "--out", cache, "--ray-address", ray_address, "--json")  # fmt: skip
    summary = json.loads(done.stdout)
    assert {name: summary[name] for name in ("rows", "ok", "failed", "shards")} == {
        "rows": 512, "ok": 512, "failed": 0, "shards": 1,
    }  # fmt: skip
    assert {"cache", "seconds", "pairs_per_second", "fingerprint"} <= summary.keys()
    assert "1/1 shards" in done.stderr

    assert json.loads(run("inspect", cache, "--json").stdout)["rows"] == 512
    assert "512" in run("inspect", cache).stdout
    assert "nothing wrong was found" in run("verify", cache, "--sample=4").stdout
    flip_index(cache)
    mended = run("verify", cache, "--sample=0", "--repair").stdout
    assert "index.parquet has SHA-256" in mended
    assert mended.endswith("nothing wrong was found\n")
    shard = next(cache.glob("shards/*"))
    shard.write_bytes(b"\0" + shard.read_bytes()[1:])
    assert json.loads(run("verify", cache, "--sample=0", "--json", code=1).stdout)["ok"] is False


def test_two_references_score_at_once(
    tmp_path: Path, reference_folder: Path, make_reference: Callable[[int], Path]
) -> None:
    other = f"local-dir:{make_reference(1)}"
    command = ["score", EXAMPLES, "--shards=00000.tar", "--limit=32", "--out", tmp_path / "one",
               "--model", f"local-dir:{reference_folder}"]  # fmt: skip
    command += ["--also", f"{other},bf16={tmp_path}/two", "--here"]
    previewed = here(*command, "--dry-run").stdout
    assert f"{tmp_path}/one" in previewed
    assert f"{tmp_path}/two" in previewed
    told = json.loads(here(*command, "--json").stdout)
    assert [(each["cache"], each["ok"]) for each in (told, *told["also"])] == [
        (f"{tmp_path}/one", 32), (f"{tmp_path}/two", 32),
    ]  # fmt: skip
    assert Plan.read(f"{tmp_path}/two/plan.json").fingerprint.precision == "bf16"
    again = here(*command).stdout
    assert again.count("0 of them encoded by this run") == 2
    refused = error_line(
        *command[:-3], "--also", f"{other}={tmp_path}/one/x", "--here", run=here, code=2
    )
    assert "one lies in the other" in refused
