"""What the training loop asks of an objective."""

from collections.abc import Callable

from torch import Tensor, nn

from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.loss.contrastive import LossOutput

# By open_clip's names: image_features, text_features [B, d], logit_scale [, logit_bias] 0-dim.
Features = dict[str, Tensor]


class Objective(nn.Module):
    """From the features of this rank's pairs to a loss.

    The gradients of ``loss`` by a model's parameters, averaged over the ranks as
    DistributedDataParallel does, are those of the whole batch. An objective's own parameters are
    temperatures, whose gradients are whole on every rank.
    """

    own_temperature = False  # whether the model's logit scale has no part in it

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Set what depends on how far the training is."""

    def super_batch(self, batch_size: int) -> int:
        """How many pairs to read for ``batch_size`` to train on."""
        return batch_size

    def select(self, encode: Callable[[Batch], Features], batch: Batch) -> Batch:  # noqa: ARG002
        """Choose the pairs to train on, of those that were read.

        ``encode`` gives the features that the model has in evaluation mode.
        """
        return batch

    def forward(self, features: Features, batch: Batch, *, steering: bool = False) -> LossOutput:
        """Take features that were made with gradients, and their pairs.

        ``steering`` asks for what the gradient is made of, where the objective can tell.
        """
        raise NotImplementedError


def reference_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """The reference's image and text embeddings of a batch that was joined with a cache."""
    assert batch.reference_image is not None  # noqa: S101 (the config has a cache)
    assert batch.reference_text is not None  # noqa: S101
    return batch.reference_image, batch.reference_text
