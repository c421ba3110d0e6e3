"""Training steered by a reference cache. The names below load their modules on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhocache_trainer.cache.reader import ReferenceCache
    from rhocache_trainer.evaluation import (
        EvaluationResult,
        evaluate,
        evaluate_cache,
        evaluate_cached,
        write_prompts,
    )
    from rhocache_trainer.loss.contrastive import DRRhoClipLoss, GlobalContrastiveLoss
    from rhocache_trainer.model.cached import load_cached
    from rhocache_trainer.model.classifier import load_classifier
    from rhocache_trainer.report import write_report
    from rhocache_trainer.risk import ChiSquareRisk, CVaRRisk, KLBallRisk, KLRisk, RiskOutput
    from rhocache_trainer.training.config import TrainConfig, load_config
    from rhocache_trainer.training.loop import TrainResult, train

__all__ = [
    "CVaRRisk",
    "ChiSquareRisk",
    "DRRhoClipLoss",
    "EvaluationResult",
    "GlobalContrastiveLoss",
    "KLBallRisk",
    "KLRisk",
    "ReferenceCache",
    "RiskOutput",
    "TrainConfig",
    "TrainResult",
    "evaluate",
    "evaluate_cache",
    "evaluate_cached",
    "load_cached",
    "load_classifier",
    "load_config",
    "train",
    "write_prompts",
    "write_report",
]

_MODULES = {
    "CVaRRisk": "risk",
    "ChiSquareRisk": "risk",
    "DRRhoClipLoss": "loss.contrastive",
    "EvaluationResult": "evaluation",
    "GlobalContrastiveLoss": "loss.contrastive",
    "KLBallRisk": "risk",
    "KLRisk": "risk",
    "ReferenceCache": "cache.reader",
    "RiskOutput": "risk",
    "TrainConfig": "training.config",
    "TrainResult": "training.loop",
    "evaluate": "evaluation",
    "evaluate_cache": "evaluation",
    "evaluate_cached": "evaluation",
    "load_cached": "model.cached",
    "load_classifier": "model.classifier",
    "load_config": "training.config",
    "train": "training.loop",
    "write_prompts": "evaluation",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
