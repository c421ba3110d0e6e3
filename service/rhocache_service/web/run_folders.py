"""The folders of training runs, as the trainer leaves them: read here without it.

A run is known by its ``log.jsonl`` beside its ``config.yaml``. All that is in them is somebody
else's: what does not fit is passed over, and a page shows the rest.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from rhocache_schemas import storage
from rhocache_schemas.errors import InvalidInput
from rhocache_schemas.job.allowed_roots import check_allowed

LOG, CONFIG = "log.jsonl", "config.yaml"
_DEPTH = 4  # folders below a root that are looked into
_LOOKED_AT = 5000  # folders
_LOG_BYTES = 64 << 20
_DOCUMENT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class RunSummary:
    path: str
    changed_at: float  # Unix seconds, of its log
    caches: list[str]  # that its settings name


@dataclass(frozen=True, slots=True)
class Run:
    path: Path
    changed_at: float
    settings: dict[str, Any]
    log: list[dict[str, float]]  # a step each
    heaviest: list[dict[str, Any]]  # pairs with caption, weight and picture
    evaluation: dict[str, Any]

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Steps, and the values of that name at them."""
        known = [(each["step"], each[name]) for each in self.log if name in each]
        return [step for step, _ in known], [value for _, value in known]

    def last(self, name: str) -> float | None:
        return next((each[name] for each in reversed(self.log) if name in each), None)


def list_runs(roots: Sequence[str]) -> list[RunSummary]:
    """Find the runs below the roots that are folders of this machine, the newest first."""
    found: dict[Path, RunSummary] = {}
    for folder in _folders(roots):
        log = folder / LOG
        if log.is_file() and (folder / CONFIG).is_file():
            found[folder] = RunSummary(
                str(folder), log.stat().st_mtime, caches_of(_settings(folder))
            )
    return sorted(found.values(), key=lambda run: -run.changed_at)


def read_run(folder: str, roots: Sequence[str]) -> Run:
    """Raises UriNotAllowed for a place outside the roots, and InvalidInput where no run is."""
    path = _allowed(folder, roots)
    if not (path / LOG).is_file():
        raise InvalidInput(f"{folder} is no folder of a training run: it has no {LOG}")
    heaviest = _json(path / "heaviest.json")
    pairs = cast("list[Any]", heaviest) if isinstance(heaviest, list) else []
    evaluation = _json(path / "evaluation.json")
    return Run(
        path=path,
        changed_at=(path / LOG).stat().st_mtime,
        settings=_settings(path),
        log=_log(path / LOG),
        heaviest=[_heavy(cast("dict[str, Any]", each)) for each in pairs if isinstance(each, dict)],
        evaluation=cast("dict[str, Any]", evaluation) if isinstance(evaluation, dict) else {},
    )


def read_picture(folder: str, name: str, roots: Sequence[str]) -> bytes | None:
    """Return a heavy pair's picture, None where it is gone. Raises as read_run does."""
    path = _allowed(folder, roots) / "heaviest" / name
    if Path(name).name != name or not path.is_file():
        return None
    check_allowed(str(path), roots)  # a link may lead elsewhere
    return path.read_bytes() if path.stat().st_size <= _DOCUMENT_BYTES else None


def caches_of(settings: dict[str, Any]) -> list[str]:
    """The caches that steer a run: none, one, or several of a list."""
    named: Any = settings.get("cache") or []
    return [
        str(each) for each in (cast("list[Any]", named) if isinstance(named, list) else [named])
    ]


def _allowed(folder: str, roots: Sequence[str]) -> Path:
    check_allowed(folder, roots)
    if storage.scheme(folder) != "file":
        raise InvalidInput(f"{folder!r} is not on this machine, as a run's folder must be")
    return storage.local_path(folder)


def _folders(roots: Sequence[str]) -> Iterator[Path]:
    left = _LOOKED_AT
    for root in roots:
        if storage.scheme(root) != "file":
            continue
        top = storage.local_path(root)
        for name, inner, _ in os.walk(top):
            left -= 1
            if left < 0:
                return
            path = Path(name)
            if len(path.relative_to(top).parts) >= _DEPTH or (path / LOG).is_file():
                inner.clear()  # runs do not lie in runs
            inner[:] = sorted(each for each in inner if not each.startswith("."))
            yield path


def _log(path: Path) -> list[dict[str, float]]:
    """The whole lines: what follows the last line break is still being written."""
    with path.open("rb") as file:
        *lines, _ = file.read(_LOG_BYTES).split(b"\n")
    return [record for line in lines if (record := _numbers(line))]


def _numbers(line: bytes) -> dict[str, float]:
    try:
        content: Any = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    items = cast("dict[str, Any]", content).items()
    found = {name: float(value) for name, value in items if type(value) in (int, float)}
    return found if "step" in found else {}


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        content = yaml.safe_load(path.read_text()) if _is_small(path) else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes()) if _is_small(path) else None
    except (OSError, ValueError, RecursionError):
        return None


def _is_small(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= _DOCUMENT_BYTES


def _heavy(pair: dict[str, Any]) -> dict[str, Any]:
    weight: Any = pair.get("weight")
    return {
        "key": str(pair.get("key", "")),
        "caption": str(pair.get("caption", "")),
        "weight": float(weight) if type(weight) in (int, float) else 0.0,
        "picture": str(pair["picture"]) if pair.get("picture") else None,
    }
