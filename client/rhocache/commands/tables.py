"""Renders results as tables for a terminal."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from rhocache.commands.progress import Seen, duration
from rhocache_schemas.api import Job, PairErrorList
from rhocache_schemas.job.fields import chosen
from rhocache_schemas.text import printable, printable_lines

if TYPE_CHECKING:
    from rhocache_service.registry.tables import KeyRow
    from rhocache_trainer import EvaluationResult
    from rhocache_workers.maintain.inspect import Inspection
    from rhocache_workers.maintain.verify import VerifyReport
    from rhocache_workers.plan.estimate import Cost
    from rhocache_workers.run.driver import ScoreSummary

_FAILURES = 10  # shards that a summary names


def summary(result: Any) -> Table:
    """Any dataclass, a field a line."""
    return _facts(asdict(result).items())


def scored(found: "ScoreSummary") -> Table:
    """What a run did, and what is in its cache now."""
    facts: dict[str, Any] = {
        "cache": found.cache,
        "pairs": f"{found.rows:,}, {found.ok:,} of them ok",
        "failed pairs": _text(found.failed_by_code),
        "shards": f"{found.shards:,}, {found.encoded_shards:,} of them encoded by this run",
        "gone shards": f"{found.gone_shards:,}, not in the dataset any more; --prune drops them"
        if found.gone_shards
        else None,
        "failed shards": "\n".join(map(printable, _failures(found))),
        "time": f"{duration(found.seconds)}, encoding at {_number(found.pairs_per_second)} pairs/s"
        if found.encoded_shards
        else duration(found.seconds),
        "limited by": found.limited_by if found.encoded_shards else None,
        "fingerprint": found.fingerprint,
        "warning": found.warning,
    }
    return _facts(facts.items())


def _failures(found: "ScoreSummary") -> Iterator[str]:
    if not found.failures:
        return
    yield f"{found.failed_shards:,}, not in the cache; the next run tries them again"
    for name, why in islice(found.failures.items(), _FAILURES):
        yield f"  {name}: {why}"
    if found.failed_shards > _FAILURES:
        yield "  and others, in the cache's failures folder"


def cost(found: "Cost") -> Table:
    work, device = found.work, found.device
    facts: dict[str, Any] = {
        "dataset": f"{found.shards:,} shards, {decimal(found.bytes)}",
        "pairs": f"{found.pairs:,}" + (", estimated" if found.pairs_estimated else ""),
        "image tower": _flop(work.image_flops),
        "text tower": f"{_flop(work.text_flops)} at {work.text_length:.1f} positions "
        f"({_flop(work.full_text_flops)} at all {work.context_length})",
        "a pair": _flop(work.flops),
        "device": f"{device.name}, {_flop(device.peak_flops)}/s in {found.precision}, "
        f"of which {device.utilisation:.0%} is expected",
    }
    if found.measured_hours is None:
        facts["hours"] = f"{_duration(found.predicted_hours, found.pairs)}, predicted"
    else:
        facts["hours"] = (
            f"{_duration(found.measured_hours, found.pairs)}, measured: "
            f"{found.measured_over_predicted:.2f} times the predicted "
            f"{_number(found.predicted_hours)}"
        )
    for dtype, storage in found.storage.items():
        facts[f"cache in {dtype}"] = (
            f"{decimal(storage.bytes)}, {_number(storage.bytes_per_pair)} bytes a pair"
        )
    return _facts(facts.items())


def inspection(found: "Inspection") -> Table:
    facts = asdict(found)
    quantiles = facts.pop("similarity_quantiles")
    facts["complete"] = "yes" if found.complete else "no: there is no manifest yet"
    facts["bytes"] = f"{found.bytes:,}"
    facts["similarity"] = "  ".join(
        f"{_quantile(share)} {value:.3f}" for share, value in quantiles.items()
    )
    return _facts(facts.items())


def print_report(console: Console, report: "VerifyReport") -> None:
    facts = asdict(report)
    findings = facts.pop("findings")
    facts["notes"] = "\n".join(map(printable, report.notes))
    console.print(_facts(facts.items()))
    if not findings:
        console.print("[green]nothing wrong was found[/green]")
        return
    table = Table(title=f"{len(findings)} findings", title_style="red", title_justify="left")
    table.add_column("where")
    table.add_column("problem")
    for finding in report.findings:
        table.add_row(_plain(finding.where), _plain(finding.problem))
    console.print(table)


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
        "kind": seen.spec.kind,
        **{field.path[-1]: value for field, value in chosen(seen.spec)},
        "errors": "\n".join(printable(f"{error.code}: {error.detail}") for error in seen.errors),
        **times,
    }
    return _facts(facts.items())


def jobs(listed: Iterable[Job]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("job", "status", "shards"):
        table.add_column(column, no_wrap=True)  # a shortened id is of no use
    for column in ("pairs", "failed"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("output", overflow="fold")
    for seen in listed:
        counts = seen.request_counts
        pairs = str(counts.completed + counts.failed)
        cells = (seen.id, seen.status, _shards(seen), pairs, str(counts.failed), seen.output_uri)
        table.add_row(*map(_plain, cells))
    return table


def pair_errors(page: PairErrorList) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("shard", "key", "code", "detail"):
        table.add_column(column, overflow="fold")
    for error in page.data:
        cells = (error.shard, error.key, error.code, error.detail)
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
            f"({100 * shot.mean_class_accuracy:.1f} % mean over classes)"
        )
    if result.linear_probe is not None:
        probe = result.linear_probe
        facts["linear probe"] = (
            f"{100 * probe.accuracy:.1f} % of {probe.images} images, {len(probe.classes)} classes "
            f"({100 * probe.mean_class_accuracy:.1f} % mean over classes), trained on "
            f"{probe.train_images} images with L2 {probe.strength:g}"
        )
    return _facts(facts.items())


def _facts(facts: Iterable[tuple[str, Any]]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # half a fingerprint is of no use
    for name, value in facts:
        if value not in (None, "", {}):
            table.add_row(
                _plain(name.replace("_", " "), "bold"), Text(printable_lines(_text(value)))
            )
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
    return f"{_number(hours)} ({_number(pairs / hours / 3600)} pairs/s)"


def _number(value: float) -> str:
    """Three digits at least, and never an exponent for a large one."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _quantile(share: str) -> str:
    names = {"0": "least", "0.5": "median", "1": "most"}
    return names.get(share, f"{100 * float(share):g}%")


def _shards(seen: Job) -> str:
    counts = seen.shard_counts
    return f"{counts.committed + counts.failed}/{'?' if counts.total is None else counts.total}"
