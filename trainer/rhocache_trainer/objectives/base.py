"""What the training loop asks of an objective and of its settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from rhocache_trainer.data.config import Data
from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.data.join import PairSource
from rhocache_trainer.data.open import open_pairs
from rhocache_trainer.loss.diagnostics import Steering
from rhocache_trainer.loss.references import References, ReferencesConfig
from rhocache_trainer.model.clip import Model, build_model
from rhocache_trainer.settings import Named

# By open_clip's names: image_features, text_features [B, d], logit_scale [, logit_bias] 0-dim; or
# by a classifier's: logits [B, classes].
Features = dict[str, Tensor]


class ObjectiveConfig(Named):
    """The settings of an objective, what it needs, and how it is made.

    A file of this folder has a subclass with a field ``name``, beside its ``Objective``.
    """

    needs_cache: ClassVar[bool] = False
    needs_logit_bias: ClassVar[bool] = False  # of the model; where it is not needed it is frozen
    own_temperature: ClassVar[bool] = False  # the model's logit scale has no part in it
    takes_cached_towers: ClassVar[bool] = True  # cached embeddings may stand in for the model's

    @property
    def own_lr(self) -> float | None:
        """Largest learning rate of the objective's own parameters; None: that of the weights."""
        return None

    def super_batch(self, batch_size: int) -> int:
        """Return how many pairs to read for ``batch_size`` to train on."""
        return batch_size

    def open_pairs(
        self, data: Data, caches: Sequence[str], references: ReferencesConfig | None
    ) -> PairSource:
        """Open what to train on. Raises as rhocache_trainer.data.open.open_pairs does."""
        return open_pairs(data, caches, references)

    def build_model(
        self,
        pairs: PairSource,  # noqa: ARG002
        model: str | dict[str, Any],
        pretrained: str | None,
        preprocess: dict[str, Any],
    ) -> Model:
        """Make the model to train on these pairs, on the CPU. Raises InvalidInput."""
        return build_model(model, pretrained, preprocess)

    def build(self, pairs: PairSource) -> "Objective":
        """Make the objective for pairs whose ``index`` runs from 0 to pairs.n − 1.

        Raises InvalidInput where the cache does not suit it.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Output:
    """What an objective makes of a batch. Tensors are 0-dim; all but ``loss`` are for the log."""

    loss: Tensor  # to go backward on
    objective: Tensor  # what is minimised, detached
    tau: Tensor | None = None  # temperatures, of images and of texts as anchors
    tau_text: Tensor | None = None
    gamma: float | None = None  # weight of the new estimate in a moving average
    accuracy: Tensor | None = None
    steering: Steering | None = None  # where it was asked for


class Objective(nn.Module):
    """From the features of this rank's pairs to a loss.

    The gradients of ``loss`` by a model's parameters, averaged over the ranks as
    DistributedDataParallel does, are those of the whole batch. An objective's own parameters are
    temperatures and the like, whose gradients are whole on every rank.
    """

    references: References | None = None  # that it is steered by, or learns from

    def start_step(self, done: float) -> None:
        """Set what depends on the share of all steps that are done."""
        if self.references is not None:
            self.references.done = done

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Set what depends on how far the training is."""

    def select(self, encode: Callable[[Batch], Features], batch: Batch) -> Batch:  # noqa: ARG002
        """Choose the pairs to train on, of those that were read.

        ``encode`` returns the features that the model has in evaluation mode.
        """
        return batch

    def deltas(self) -> tuple[range, dict[str, Tensor]] | None:
        """Return the pairs whose state is here, with what they lose more than their reference does.

        NaN for one that was never seen. None where an objective remembers no such thing.
        """
        return None

    def forward(self, features: Features, batch: Batch, *, steering: bool = False) -> Output:
        """Take features that were made with gradients, and their pairs.

        ``steering`` asks for what the gradient is made of, where the objective can tell.
        """
        raise NotImplementedError


class OpenClipLoss(Objective):
    """A loss of open_clip's, whose temperature is the model's logit scale."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, features: Features, batch: Batch, *, steering: bool = False) -> Output:  # noqa: ARG002
        return at_logit_scale(self.loss(**features), features["logit_scale"])


def at_logit_scale(loss: Tensor, logit_scale: Tensor) -> Output:
    tau = 1 / logit_scale.detach()
    return Output(loss, loss.detach(), tau, tau)


def reference_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """The references' image and text embeddings of a batch that was joined with their caches."""
    assert batch.reference_image is not None  # noqa: S101 (the config has a cache)
    assert batch.reference_text is not None  # noqa: S101
    return batch.reference_image, batch.reference_text


def references_of(pairs: PairSource) -> References:
    """The references that made the caches."""
    assert pairs.references is not None  # noqa: S101 (the config has a cache)
    return pairs.references
