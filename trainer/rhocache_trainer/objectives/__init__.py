"""What a run minimises. Each file has objectives with their settings, and is found by itself."""

from rhocache_trainer.objectives.base import Features, Objective, ObjectiveConfig, Output

__all__ = ["Features", "Objective", "ObjectiveConfig", "Output"]
