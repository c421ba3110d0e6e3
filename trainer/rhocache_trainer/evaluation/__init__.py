"""How good a model, or a cache's reference, is: retrieval, zero-shot and a linear probe."""

from rhocache_trainer.evaluation.cached_model import evaluate_cached
from rhocache_trainer.evaluation.cached_reference import evaluate_cache
from rhocache_trainer.evaluation.model import evaluate
from rhocache_trainer.evaluation.prompts import write_prompts
from rhocache_trainer.evaluation.result import EvaluationResult

__all__ = ["EvaluationResult", "evaluate", "evaluate_cache", "evaluate_cached", "write_prompts"]
