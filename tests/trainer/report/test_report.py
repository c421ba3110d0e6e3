"""Reports of a real short run, and of folders that are written by hand, as a browser and as a
parser see them."""

import io
import json
import math
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from rhocache_schemas.errors import InvalidDocument, InvalidInput, RhocacheError
from rhocache_trainer import TrainConfig, evaluate, train, write_report

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

HOSTILE = [
    "<script>document.title = 'owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "{{ 7 * 7 }} {% raw %} $\\frac{1}{2}$",
    "</figcaption></figure></body> &amp; <!-- ",
    "right to left \u202e and \x00 nothing",
]

EVALUATION = {
    "model": "runs/a/model",
    "dataset": "d",
    "shards": ["00003.tar"],
    "images": 1234,
    "captions": 1000,
    "skipped": 0,
    "image_to_text": {1: 0.123, 5: 0.3, 10: 0.456},
    "text_to_image": {1: 0.111, 5: 0.222, 10: 0.333},
    "zero_shot": {"images": 9, "classes": ["a"], "accuracy": 0.789, "mean_class_accuracy": 0.5},
}


def record(step: int) -> dict[str, Any]:
    wave = math.sin(step / 20)
    return {
        "step": step,
        "epoch": step // 100,
        "objective": 2 / (1 + step / 50) + 0.05 * wave,
        "tau": 0.07 - step * 1e-4,
        "tau_text": 0.06 - step * 1e-4,
        "gamma": 1 - step / 400,
        "lr": 1e-3 * (1 - step / 300),
        "gradient_norm": 1 + wave,
        "effective_sample_size": 1 / (1 + step / 100),
        "divergence": step / 300,
        "delta_mean": -step / 1000,
        "delta_p05": -step / 1000 - 0.3,
        "delta_p50": -step / 1000 + 0.01,
        "delta_p95": -step / 1000 + 0.2,
        "log_u_mean": -step / 200,
        "pairs_per_second": 900 + 50 * wave,
        "skipped": step // 60,
    }


def write_log(folder: Path, records: list[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    return folder


def picture(colour: str, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (400, 300), colour).save(buffer, form)
    return buffer.getvalue()


def write_heaviest(folder: Path, pairs: list[dict[str, Any]]) -> None:
    (folder / "heaviest").mkdir(exist_ok=True)
    (folder / "heaviest.json").write_text(json.dumps(pairs))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with everything that a run may leave."""
    folder = write_log(tmp_path / "runs" / "drrho", [record(step) for step in range(10, 300, 10)])
    (folder / "config.yaml").write_text("objective: {name: drrho, rho: 8.0}\ncache: null\n")
    (folder / "evaluation.json").write_text(json.dumps(EVALUATION))
    write_heaviest(
        folder,
        [
            {"shard": "00000.tar", "key": f"{number:04}", "caption": caption,
             "weight": 0.5 / (1 + number), "picture": f"{number}.jpg"}
            for number, caption in enumerate(HOSTILE)
        ],
    )  # fmt: skip
    for number in range(len(HOSTILE)):
        (folder / "heaviest" / f"{number}.jpg").write_bytes(picture("teal"))
    return folder


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(path.read_text())
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def report(tmp_path: Path, *runs: Path) -> Page:
    write_report(runs, tmp_path / "report.html")
    return Page(tmp_path / "report.html")


def test_everything_that_a_folder_holds_is_in_it(run: Path, tmp_path: Path):
    page = report(tmp_path, run)
    assert page.tags.count("section") == 11
    assert "drrho" in page.text
    assert "12.3" in page.text  # R@1
    assert "78.9" in page.text  # zero-shot
    assert "1,234" in page.text
    assert "objective.rho" in page.text
    last = record(290)
    assert f"{last['objective']:.4g}" in page.text
    assert f"{last['effective_sample_size']:.4g}" in page.text


PLOTTED = {  # title -> number in the log
    "Objective": "objective",
    "Effective sample size": "effective_sample_size",
    "Residual δ": "delta_mean",
    "Temperature τ": "tau",
    "Divergence of the weights": "divergence",
    "Estimate u": "log_u_mean",
    "Memory γ": "gamma",
    "Learning rate": "lr",
    "Gradient norm": "gradient_norm",
    "Speed": "pairs_per_second",
    "Pairs left out": "skipped",
}


@pytest.fixture
def steered(config: dict, cache: Path) -> Path:
    """The folder of a real run, of four epochs, whose γ goes down."""
    objective = {"name": "drrho", "rho": 1.0, "temperature": "separate", "gamma": 0.2}
    settings = {"objective": objective, "cache": str(cache), "epochs": 4}
    return Path(train(TrainConfig.model_validate(config | settings)).output)


def test_what_a_run_logs_is_drawn(steered: Path, tmp_path: Path):
    """Each number in a plot of its own, as high as the log has it, and none that is not logged."""
    page = report(tmp_path, steered)
    log = [json.loads(line) for line in (steered / "log.jsonl").read_text().splitlines()]
    drawn = dict(plots(tmp_path / "report.html"))
    assert list(drawn) == list(PLOTTED)
    together = {"tau_text", "delta_p05", "delta_p50", "delta_p95"}  # with another of these
    assert set(log[-1]) == {*PLOTTED.values(), *together, "step", "epoch"}
    for title, name in PLOTTED.items():
        values = [record[name] for record in log]
        heights = heights_of(drawn[title])
        assert len(heights) == len(log), title
        assert np.ptp(values) == 0 or np.corrcoef(values, heights)[0, 1] > 0.999, title
    assert [record["gamma"] for record in log[:: len(log) // 4]] == pytest.approx(
        [1, 0.6, 0.2, 0.2]
    )
    heaviest = json.loads((steered / "heaviest.json").read_text())
    assert page.tags.count("img") == len(heaviest) > 0


def plots(path: Path) -> list[tuple[str, str]]:
    """The titles of a page's plots, with what draws them."""
    return re.findall(r'<h3>([^<]*)</h3>\s*<div role="img"(.*?)</section>', path.read_text(), re.S)


def heights_of(drawing: str) -> list[float]:
    """Of the points of a plot's thick line, which a browser would put lower the larger they are."""
    (line,) = re.findall(r'<path d="([^"]*)" clip-path[^>]*stroke-width: 1\.6', drawing)
    return [-float(y) for y in re.findall(r"[ML] \S+ (\S+)", line)]


def test_a_plain_run_and_its_evaluation(config: dict, dataset: Path, tmp_path: Path):
    trained = train(TrainConfig.model_validate(config))
    evaluated = evaluate(trained.model, str(dataset))
    (Path(trained.output) / "evaluation.json").write_text(evaluated.model_dump_json())
    page = report(tmp_path, Path(trained.output))
    for words in ("Objective", "Gradient norm", "Evaluation", "augmentation.flip"):
        assert words in page.text
    assert "Memory γ" not in page.text, "open_clip's loss has none"
    assert f"{trained.objective:.4g}" in page.text
    assert f"{100 * evaluated.image_to_text[1]:.1f}" in page.text


def test_nothing_is_loaded_from_elsewhere(run: Path, tmp_path: Path):
    page = report(tmp_path, run)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    sources = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert len([each for each in sources if each.startswith("data:image/jpeg")]) == len(HOSTILE)
    assert all(each.startswith(("data:image/", "#")) for each in sources)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    named = {each[1:] for each in sources if each.startswith("#")}
    named |= set(re.findall(r"url\(#([^)]+)\)", (tmp_path / "report.html").read_text()))
    assert named <= set(ids)


def test_what_a_dataset_says_is_text(run: Path, tmp_path: Path):
    hostile = run.rename(run.with_name(os.fsdecode(b'<b onclick="x">$a_b$\xff')))
    page = report(tmp_path, hostile)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.tags.count("b") == len(HOSTILE)  # the weights
    for caption in HOSTILE[:4]:
        assert caption in page.text
    assert '<b onclick="x">$a_b$?' in page.text


def test_a_browser_runs_nothing_and_scrolls_one_way(run: Path, tmp_path: Path):
    second = write_log(tmp_path / "runs" / "clip", [{"step": 10, "objective": 1.0, "tau": 0.07}])
    write_report([run, second], tmp_path / "report.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        said: list[str] = []
        for width in (1400, 360):
            tab = browser.new_page(viewport={"width": width, "height": 800})
            tab.on("console", lambda message: said.append(message.text))
            tab.goto((tmp_path / "report.html").as_uri())
            assert tab.title() == "Training report: drrho, clip"
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            broken = "[...document.images].filter(each => !each.naturalWidth).length"
            assert tab.evaluate(broken) == 0
        browser.close()
    assert said == []


def curves(path: Path, title: str) -> int:
    """How many curves a plot has."""
    section = path.read_text().split(f"<h3>{title}</h3>")[1].split("</section>")[0]
    axes = section.split('-axes_1"')[1]
    return len(re.findall(r'-line2d_\d+">\s*<path [^>]*clip-path[^>]*stroke-width: 1\.6', axes))


def test_several_runs_are_drawn_over_one_another(run: Path, tmp_path: Path):
    plain = write_log(tmp_path / "other" / "clip", [record(step) for step in (10, 20)])
    steered = write_log(tmp_path / "other" / "drrho", [{"step": 5, "objective": 1}, {"step": 6}])
    (plain / "config.yaml").write_text("objective: {name: clip}\n")
    page = report(tmp_path, run, plain, steered)
    assert curves(tmp_path / "report.html", "Objective") == 3
    assert curves(tmp_path / "report.html", "Temperature τ") == 2
    assert str(steered) in page.text  # two of them are called drrho
    assert "those that differ come first" in page.text
    report(tmp_path, plain, steered)
    assert "clip" in page.text


def test_a_plot_that_has_nothing_to_show_is_left_out(tmp_path: Path):
    records = [
        {"step": 1, "objective": 1.0, "tau": None, "note": "x"},
        {"step": 2, "tau": math.nan},
    ]
    page = report(tmp_path, write_log(tmp_path / "run", records))
    assert page.tags.count("section") == 1
    assert "Settings" not in page.text
    assert "Evaluation" not in page.text


def test_a_torn_last_line_is_left_out(run: Path, tmp_path: Path):
    whole = report(tmp_path, run).text
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 300, "obj')
    assert report(tmp_path, run).text == whole


def test_a_long_run_makes_no_long_file(tmp_path: Path):
    records = [record(step) for step in range(1, 20_001)]
    report(tmp_path, write_log(tmp_path / "run", records))
    assert (tmp_path / "report.html").stat().st_size < 1_000_000


def test_pictures_that_are_gone_or_none(run: Path, tmp_path: Path):
    (run / "heaviest" / "0.jpg").unlink()
    (run / "heaviest" / "1.jpg").write_bytes(b"<svg onload='x'/>")
    (run / "heaviest" / "2.jpg").write_bytes(picture("red", "PNG"))
    page = report(tmp_path, run)
    assert page.text.count("no picture") == 2
    assert page.tags.count("img") == len(HOSTILE) - 2


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/passwd", "a/b.jpg"])
def test_no_picture_from_outside_the_run(run: Path, tmp_path: Path, name: str):
    write_heaviest(run, [{"shard": "s", "key": "k", "caption": "c", "weight": 1, "picture": name}])
    with pytest.raises(InvalidDocument, match="not a plain file name"):
        report(tmp_path, run)


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("log.jsonl", None, InvalidInput, r"no folder of a training run: it has no log\.jsonl"),
        ("log.jsonl", "", InvalidInput, "has no steps yet"),
        ("log.jsonl", '{"step": 1', InvalidInput, "has no steps yet"),
        ("log.jsonl", '{"step": 1}\nstep 2: fine\n', InvalidDocument, "line 2 is not JSON"),
        ("log.jsonl", '{"time": 1, "event": "x"}\n', InvalidDocument, "line 1 is no training log"),
        ("log.jsonl", "[1]\n", InvalidDocument, "line 1 is no training log"),
        ("log.jsonl", '{"step": "1"}\n', InvalidDocument, "whole number 'step'"),
        ("config.yaml", "a: [", InvalidDocument, "is not YAML"),
        ("config.yaml", "- a", InvalidDocument, "no mapping"),
        ("heaviest.json", "{}", InvalidDocument, r"heaviest\.json: "),
        ("heaviest.json", '[{"shard": "s"}]', InvalidDocument, r"0\.caption"),
        ("evaluation.json", '{"model": "m"}', InvalidDocument, r"evaluation\.json: "),
    ],
)
def test_what_is_not_a_run(
    run: Path,
    tmp_path: Path,
    name: str,
    content: str | None,
    error: type[RhocacheError],
    words: str,
):
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    with pytest.raises(error, match=words):
        report(tmp_path, run)
    assert not (tmp_path / "report.html").exists()
