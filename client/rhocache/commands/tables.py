"""Renders results as tables for a terminal."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from rhocache.commands.progress import Seen, duration
from rhocache_schemas.api import Job, JobList, PairErrorList, Range, Validation
from rhocache_schemas.errors import meaning
from rhocache_schemas.job.fields import chosen
from rhocache_schemas.job.names import data_to_model, last_part, name_of
from rhocache_schemas.job.spec import JobState
from rhocache_schemas.text import printable, printable_lines

if TYPE_CHECKING:
    from rhocache.commands.caches import Found
    from rhocache.commands.doctor import Check
    from rhocache_schemas.failures import Failed
    from rhocache_schemas.table.documents import TableManifest
    from rhocache_service.registry.tables import KeyRow
    from rhocache_trainer import EvaluationResult
    from rhocache_workers.maintain.derive import Made
    from rhocache_workers.maintain.inspect import Inspection
    from rhocache_workers.maintain.verify import VerifyReport
    from rhocache_workers.plan.estimate import Cost
    from rhocache_workers.run.driver import ScoreSummary
    from rhocache_workers.run.preview import Preview

SAMPLES = 3  # of each code
_FINDINGS = 20
_ID = 8  # digits of a job's id
_AMBER = "yellow"
_BARS = " ▁▂▃▄▅▆▇█"


def summary(result: Any) -> Table:
    """Any dataclass, a field a line."""
    return _facts(asdict(result).items())


def scored(found: "ScoreSummary") -> Table:
    """What a run did, and what is in its cache now."""
    facts: dict[str, Any] = {
        "cache": found.cache,
        "pairs": f"{found.rows:,}" + (", all of them ok" if not found.failed else ""),
        "failed pairs": _failed_share(found.failed, found.rows),
        "shards": f"{found.shards:,}, {found.encoded_shards:,} of them encoded by this run",
        "reused": f"{found.reused_pairs:,} pairs, whose rows other caches had"
        if found.reused_pairs
        else None,
        "gone shards": f"{found.gone_shards:,}, not in the dataset any more; --prune drops them"
        if found.gone_shards
        else None,
        "failed shards": Text(
            f"{found.failed_shards:,}, not in the cache; the next run tries them again", _AMBER
        )
        if found.failed_shards
        else None,
        "time": f"{duration(found.seconds)}, encoding at {_number(found.pairs_per_second)} pairs/s"
        if found.encoded_shards
        else duration(found.seconds),
        "limited by": found.limited_by if found.encoded_shards else None,
        "fingerprint": found.fingerprint,
        "warning": found.warning,
    }
    return _facts(facts.items())


def made(found: "Made") -> Table:
    """What was written that no run has encoded."""
    facts = asdict(found)
    facts["bytes"] = decimal(found.bytes)
    facts["notes"] = "\n".join(found.notes)
    return _facts(facts.items())


def cost(found: "Cost") -> Table:
    work, device = found.work, found.device
    facts: dict[str, Any] = {
        "dataset": f"{found.shards:,} shards, {decimal(found.bytes)}",
        "pairs": f"{found.pairs:,}" + (", estimated" if found.pairs_estimated else ""),
        "image tower": _flop(work.image_flops),
        "text tower": f"{_flop(work.text_flops)} at {work.text_length:.1f} positions "
        f"({_flop(work.full_text_flops)} at all {work.context_length})",
        "a pair": f"{_flop(work.flops)} of {_count(work.views, 'view')} and "
        f"{_count(work.captions, 'caption')}",
        "device": f"{device.name}, {_flop(device.peak_flops)}/s in {found.precision}, "
        f"of which {device.utilisation:.0%} is expected",
    }
    if found.measured_hours is None:
        facts["time"] = f"{_duration(found.predicted_hours, found.pairs)}, predicted"
    else:
        facts["time"] = (
            f"{_duration(found.measured_hours, found.pairs)}, measured: "
            f"{found.measured_over_predicted:.2f} times the predicted "
            f"{_spoken(found.predicted_hours)}"
        )
    for dtype, storage in found.storage.items():
        facts[f"cache in {dtype}"] = (
            f"{decimal(storage.bytes)}, {_number(storage.bytes_per_pair)} bytes a pair"
        )
    return _facts(facts.items())


def _count(number: float, of: str) -> str:
    return f"{number:.3g} {of}{'s' * (number != 1)}"


def previewed(found: "Preview") -> Table:
    todo = found.shards - found.done_shards
    facts: dict[str, Any] = {
        "would score": f"{last_part(found.dataset)} with {last_part(found.model)}",
        "into": "\n".join([found.cache, *found.also]),
        "shards": f"{found.shards:,}, {found.done_shards:,} of them done",
        "to encode": f"{todo:,} shards, {decimal(found.bytes)}" if todo else "nothing",
        "would drop": f"{found.dropped_shards:,} shards" if found.dropped_shards else None,
        "nothing was done": "leave out --dry-run to do it; `rhocache plan` tells how long it takes",
    }
    return _facts(facts.items())


def validated(found: Validation) -> Table:
    facts: dict[str, Any] = {
        "shards": f"{found.shards:,}, {found.shards_committed:,} of them done",
        "source": decimal(found.source_bytes),
        "pairs": _between(found.predicted_pairs, "{:,.0f}".format)
        if found.pairs is None
        else f"{found.pairs:,}",
        "time": _between(found.predicted_seconds, lambda each: _spoken(each / 3600)),
        "cache": _between(found.predicted_bytes, lambda each: decimal(int(each))),
        "nothing was done": "leave out --dry-run to submit it",
    }
    return _facts(facts.items())


def _between(found: Range | None, spell: Callable[[float], str]) -> str | None:
    if found is None:
        return None
    low, high = spell(found.low), spell(found.high)
    return low if low == high else f"{low} to {high}"


def inspection(found: "Inspection") -> Table:
    facts = asdict(found)
    quantiles, rounding = facts.pop("similarity_quantiles"), facts.pop("rounding")
    facts["complete"] = "yes" if found.complete else "no: there is no manifest yet"
    facts["bytes"] = f"{found.bytes:,}"
    facts["similarity"] = "  ".join(
        f"{_quantile(share)} {value:.3f}" for share, value in quantiles.items()
    )
    if rounding is not None:
        facts["rounding"] = "  ".join(
            f"{what} {_spread(rounding[name])}"
            for what, name in (("r", "similarity"), ("r/0.01", "logit"))
        )
    return _facts(facts.items())


def _spread(errors: dict[str, float]) -> str:
    return f"±{errors['mean']:.2g} (99 % {errors['p99']:.2g}, max {errors['max']:.2g})"


def table(place: str, found: "TableManifest") -> Iterator[Table]:
    """What is in a table: facts, how its columns are spread, and the rows that it shows."""
    summary = found.summary
    facts: dict[str, Any] = {"table": place, "kind": found.spec.kind}
    facts |= {field.path[-1]: ", ".join(field.write(value)) for field, value in chosen(found.spec)}
    facts |= {"files": f"{found.files:,}", "rows": f"{found.rows:,}", **summary.facts}
    facts |= {
        each.column: f"{_text(each.low)} {_bars(each.counts)} {_text(each.high)}"
        for each in summary.histograms
    }
    yield _facts(facts.items())
    for sample in summary.samples:
        rows = Table(
            *sample.columns,
            box=None,
            padding=(0, 2, 0, 0),
            title=sample.title,
            title_justify="left",
        )
        for row in sample.rows[:SAMPLES]:
            rows.add_row(*(_plain(_text(value)) for value in row))
        yield rows


def _bars(counts: Iterable[int]) -> str:
    """A histogram in one line."""
    counts = list(counts)
    most = max(counts) or 1
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in counts)


def print_report(console: Console, report: "VerifyReport") -> None:
    facts = asdict(report)
    findings = facts.pop("findings")
    facts["notes"] = "\n".join(map(printable, report.notes))
    console.print(_facts(facts.items()))
    if not findings:
        console.print("[green]nothing wrong was found[/green]")
        return
    table = Table(title=f"{len(findings):,} findings", title_style="red", title_justify="left")
    table.add_column("where")
    table.add_column("problem")
    for finding in report.findings[:_FINDINGS]:
        table.add_row(_plain(finding.where), _plain(finding.problem))
    console.print(table)
    if (more := len(findings) - _FINDINGS) > 0:
        console.print(f"and {more:,} more: --json has them all")


def _failed_share(failed: int, pairs: int) -> Text | None:
    return Text(f"{failed:,}, {failed / pairs:.2%}", _AMBER) if failed else None


def job(seen: Job) -> Table:
    times = {
        name.removesuffix("_at"): _time(value)
        for name, value in seen.model_dump().items()
        if name.endswith("_at") and value is not None
    }
    facts: dict[str, Any] = {
        "job": seen.id,
        "status": str(seen.status),
        "progress": Seen.of_job(seen).counts,
        "failed pairs": _failed_share(
            seen.request_counts.failed, seen.request_counts.completed + seen.request_counts.failed
        ),
        "kind": seen.spec.kind,
        **{field.path[-1]: value for field, value in chosen(seen.spec)},
        "errors": "\n".join(printable(f"{error.code}: {error.detail}") for error in seen.errors),
        **times,
    }
    return _facts(facts.items())


def jobs(listed: JobList) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("job", no_wrap=True)
    table.add_column("name", no_wrap=True, overflow="ellipsis")
    table.add_column("state", no_wrap=True)
    for column in ("pairs", "failed", "age", "took"):
        table.add_column(column, justify="right", no_wrap=True)
    for seen in listed.data:
        counts = seen.request_counts
        table.add_row(
            short_id(seen.id),
            _plain(name_of(seen.spec)),
            _state(seen),
            f"{counts.completed + counts.failed:,}",
            Text(f"{counts.failed:,}", _AMBER) if counts.failed else "",
            age(seen.created_at),
            _took(seen),
        )
    if listed.has_more:
        table.caption = f"older ones: --after {short_id(listed.data[-1].id)}"
        table.caption_justify = "left"
    return table


def short_id(job: str) -> str:
    """What tells a job from others on a screen; commands take it in place of the whole id."""
    return job.removeprefix("job_")[:_ID]


def _state(seen: Job) -> Text:
    style = {"completed": "green", "failed": "red", "in_progress": "cyan", "finalizing": "cyan"}
    told, counts = seen.status.replace("_", " "), seen.shard_counts
    if seen.status == JobState.IN_PROGRESS and counts.total:
        told += f" {(counts.committed + counts.failed) / counts.total:.0%}"
    return Text(told, style.get(seen.status, ""))


def _took(seen: Job) -> str:
    """From its start to its end, or to now."""
    if seen.in_progress_at is None:
        return ""
    end: int | None = getattr(seen, f"{seen.status}_at") if seen.status.terminal else None
    return duration((time.time() if end is None else end) - seen.in_progress_at)


def caches(found: "Iterable[Found]") -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("cache", overflow="fold")
    for column in ("state", "pairs", "failed", "age"):
        table.add_column(column, no_wrap=True, justify="right" if column != "state" else "left")
    table.add_column("dataset → model", overflow="fold")
    for each in found:
        pairs = "" if each.pairs is None else f"{each.pairs:,}"
        failed = Text(f"{each.failed:,}", _AMBER) if each.failed else Text("")
        what = data_to_model(each.dataset, each.model)
        table.add_row(
            _plain(each.cache), each.state, pairs, failed, age(each.created_at), _plain(what)
        )
    return table


def failed(found: "Mapping[str, Failed]") -> Table:
    """What failed, by code: how many, and three of them."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("code", overflow="fold")
    table.add_column("failed", justify="right")
    table.add_column("as in", overflow="fold")
    for code, each in sorted(found.items(), key=lambda item: -item[1].count):
        places = (
            printable(f"{error.shard}: {error.key or error.detail or 'the whole shard'}")
            for error in each.samples[:SAMPLES]
        )
        told = Text("\n".join(places))
        if means := meaning(code):
            told = Text.assemble((means, "dim"), "\n", told)
        table.add_row(_plain(code, _AMBER), f"{each.count:,}", told)
    return table


def checks(found: "Iterable[Check]") -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for column in ("", "", ""):
        table.add_column(column, overflow="fold")
    for check in found:
        mark = {"ok": Text("✓", "green"), "note": Text("!", _AMBER), "bad": Text("✗", "red")}
        told = Text(printable(check.found))
        if check.advice:
            told.append(f"\n{printable(check.advice)}", "dim")
        table.add_row(mark[check.state], check.name, told)
    return table


def models(found: dict[str, list[str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("--model", no_wrap=True)
    table.add_column("--pretrained", overflow="fold")
    for name, tags in found.items():
        table.add_row(name, ", ".join(tags) or "none of its own: a checkpoint's path")
    return table


def pair_errors(page: PairErrorList) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("shard", "key", "code", "detail"):
        table.add_column(column, overflow="fold")
    for error in page.data:
        cells = (error.shard, error.key, error.code, error.detail or meaning(error.code))
        table.add_row(*(_plain(each or "") for each in cells))
    if page.has_more:
        table.add_row("...")
    return table


def keys(listed: "Iterable[KeyRow]") -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("key", "name", "scopes", "created", "expires", "revoked"):
        table.add_column(column, no_wrap=column == "key")
    for row in listed:
        times = (row.created_at, row.expires_at, row.revoked_at)
        table.add_row(row.id, _plain(row.name), ", ".join(row.scopes), *map(_time, times))
    return table


def age(since: float) -> str:
    """As in 5 s, 12 min, 3 h or 9 d."""
    seconds = max(0.0, time.time() - since)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _time(value: int | None) -> str:
    return "" if value is None else datetime.fromtimestamp(value, UTC).isoformat(" ", "seconds")


def evaluation(result: "EvaluationResult") -> Table:
    facts: dict[str, Any] = {
        "model": result.model,
        "cache": result.cache,
        "images": result.images,
        "captions": f"{result.captions} different ones",
        "skipped": result.skipped,
    }
    for name, recalls in (
        ("image to text", result.image_to_text),
        ("text to image", result.text_to_image),
    ):
        facts[name] = "  ".join(f"R@{k} {100 * share:.1f} %" for k, share in recalls.items())
    if result.zero_shot is not None:
        shot = result.zero_shot
        facts["zero-shot"] = (
            f"{100 * shot.accuracy:.1f} % of {shot.images} images, {len(shot.classes)} classes "
            f"({100 * shot.mean_class_accuracy:.1f} % mean over classes), prompts: "
            f"{result.templates or 'not known'}"
        )
    if result.linear_probe is not None:
        probe = result.linear_probe
        facts["linear probe"] = (
            f"{100 * probe.accuracy:.1f} % of {probe.images} images, {len(probe.classes)} classes "
            f"({100 * probe.mean_class_accuracy:.1f} % mean over classes), trained on "
            f"{probe.train_images} images with L2 {probe.strength:g}"
        )
    return _facts(facts.items())


def evaluations(results: "Iterable[EvaluationResult]") -> Table:
    """Models side by side, in percent."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("model", overflow="fold")
    for column in ("image→text R@1", "R@10", "text→image R@1", "R@10", "zero-shot"):
        table.add_column(column, justify="right")
    for each in results:
        shares = [each.image_to_text[1], each.image_to_text[10]]
        shares += [each.text_to_image[1], each.text_to_image[10]]
        shares += [each.zero_shot.accuracy] if each.zero_shot else []
        table.add_row(_plain(str(each.model)), *(f"{100 * share:.1f}" for share in shares))
    return table


def _facts(facts: Iterable[tuple[str, Any]]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # half a fingerprint is of no use
    for name, value in facts:
        if value not in (None, "", {}):
            shown = value if isinstance(value, Text) else Text(printable_lines(_text(value)))
            table.add_row(_plain(name.replace("_", " "), "bold"), shown)
    return table


def _plain(text: str, style: str = "") -> Text:
    """What a dataset says is neither rich's markup nor for a terminal to obey."""
    return Text(printable(text), style)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return ", ".join(f"{name}: {_text(inner)}" for name, inner in fields.items())
    return str(value)


def _flop(operations: float) -> str:
    if operations < 1e12:
        return f"{_number(operations / 1e9)} GFLOP"
    return f"{_number(operations / 1e12)} TFLOP"


def _duration(hours: float, pairs: int) -> str:
    return f"{_spoken(hours)} ({_number(pairs / hours / 3600)} pairs/s)"


def _spoken(hours: float) -> str:
    """As in 9 s, 12 min, 3.4 hours or 5.2 days."""
    for size, unit in ((24, "days"), (1, "hours")):
        if hours >= size:
            return f"{_number(hours / size)} {unit}"
    return f"{hours * 60:.0f} min" if hours >= 1 / 60 else f"{max(1, hours * 3600):.0f} s"


def _number(value: float) -> str:
    """Three digits at least, and never an exponent for a large one."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _quantile(share: str) -> str:
    names = {"0": "least", "0.5": "median", "1": "most"}
    return names.get(share, f"{100 * float(share):g}%")
