"""Image classification: a risk of the cross-entropies, steered by a reference's losses."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from rhocache_schemas.documents import Location
from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.data.config import Data
from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.data.join import PairSource
from rhocache_trainer.data.labelled import Label, LabelledPairs
from rhocache_trainer.distributed.collectives import Ranks
from rhocache_trainer.loss.references import ReferencesConfig
from rhocache_trainer.model.classifier import ClassifierModel, build_classifier
from rhocache_trainer.objectives.base import Features, Objective, ObjectiveConfig, Output
from rhocache_trainer.risk.base import Risk, RiskConfig, residual
from rhocache_trainer.settings import ChosenFrom


class ClassifyConfig(ObjectiveConfig):
    """A classifier with the model's image tower. A pair's class is all that is read of its text."""

    own_temperature: ClassVar[bool] = True
    takes_cached_towers: ClassVar[bool] = False

    name: Literal["classify"] = "classify"
    label: Annotated[
        Label,
        Field(
            description="text: a pair's class is its text, such as a field of KEY.json by "
            "data.caption_field; folder: the last folder of its key"
        ),
    ] = "text"
    reference: Annotated[
        Location | None,
        Field(description="Parquet file with the reference's losses: key, loss, perhaps shard"),
    ] = None
    risk: Annotated[
        Annotated[RiskConfig, ChosenFrom("rhocache_trainer.risk")] | None,
        Field(description="of loss − reference loss; null: the mean"),
    ] = None
    risk_lr: Annotated[float, Field(gt=0, description="largest learning rate of its τ or μ")] = 1e-3
    filter_ratio: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="share of the pairs that are read and not trained on: those of the "
            "smallest loss − reference loss (RHO-Loss)",
        ),
    ] = 0.0

    @model_validator(mode="after")
    def _one_choice_of_samples(self) -> Self:
        if self.risk is not None and self.filter_ratio:
            raise ValueError(
                "a risk takes batches for uniform samples, and filter_ratio chooses them; leave "
                "out one of the two"
            )
        return self

    @property
    def own_lr(self) -> float:
        return self.risk_lr

    def super_batch(self, batch_size: int) -> int:
        return round(batch_size / (1 - self.filter_ratio))

    def open_pairs(
        self,
        data: Data,
        caches: Sequence[str],  # noqa: ARG002
        references: ReferencesConfig | None,  # noqa: ARG002
    ) -> LabelledPairs:
        return LabelledPairs(data, self.label, self.reference)

    def build_model(
        self,
        pairs: PairSource,
        model: str | dict[str, Any],
        pretrained: str | None,
        preprocess: dict[str, Any],
    ) -> ClassifierModel:
        return build_classifier(_labelled(pairs).classes, model, pretrained, preprocess)

    def build(self, pairs: PairSource) -> "Classify":
        risk = None if self.risk is None else self.risk.build(pairs.n)
        losses = _labelled(pairs).reference_losses
        reference = None if losses is None else torch.from_numpy(losses)
        return Classify(risk, reference, self.filter_ratio)


def _labelled(pairs: PairSource) -> LabelledPairs:
    assert isinstance(pairs, LabelledPairs)  # noqa: S101 (open_pairs has made them)
    return pairs


class Classify(Objective):
    """The risk over all ranks' samples, whose state is therefore the same on every rank."""

    reference_losses: Tensor | None  # float64 [n]

    def __init__(
        self, risk: Risk | None, reference_losses: Tensor | None, filter_ratio: float
    ) -> None:
        super().__init__()
        self.risk = risk
        self._filter_ratio = filter_ratio
        self._ranks = Ranks()
        self.register_buffer("reference_losses", reference_losses, persistent=False)

    @torch.no_grad()
    def select(self, encode: Callable[[Batch], Features], batch: Batch) -> Batch:
        if not self._filter_ratio:
            return batch
        size = round(len(batch.index) * (1 - self._filter_ratio))
        loss, _ = _losses(encode(batch), batch)
        return batch.take(rho_loss_selection(loss, self._reference(batch.index), size))

    def forward(self, features: Features, batch: Batch, *, steering: bool = False) -> Output:  # noqa: ARG002
        own, right = _losses(features, batch)
        sizes = [len(own)] * self._ranks.world_size
        every, accuracy, index = self._ranks.gather_rows([own, right, batch.index], sizes)
        if self.risk is None:
            loss, value = own.mean(), every.detach().mean()
        else:
            every = self._with_gradients(every, own)
            out = self.risk(every, self._reference(index), index)
            loss, value = out.loss, out.value
        return Output(loss, value, accuracy=accuracy.mean())

    def _with_gradients(self, every: Tensor, own: Tensor) -> Tensor:
        """Losses of all ranks, of which the own ones have gradients, to be averaged over ranks."""
        ranks = self._ranks
        if ranks.world_size == 1:
            return own
        times = ranks.world_size
        own = times * own - (times - 1) * own.detach()
        start = ranks.rank * len(own)
        return torch.cat([every[:start], own, every[start + len(own) :]])

    def _reference(self, index: Tensor) -> Tensor | None:
        return None if self.reference_losses is None else self.reference_losses[index]


def _losses(features: Features, batch: Batch) -> tuple[Tensor, Tensor]:
    """Of each sample: its cross-entropy, and whether the class of largest logit is its own, 0/1."""
    logits, labels = features["logits"].float(), batch.tokens[:, 0]
    loss = cross_entropy(logits, labels, reduction="none")
    return loss, (logits.argmax(1) == labels).float()


def rho_loss_selection(loss: Tensor, reference_loss: Tensor | None, count: int) -> Tensor:
    """Return the places of the ``count`` largest residuals loss − reference loss, largest first.

    Mindermann et al. 2022, "Prioritized Training on Points that are Learnable, Worth Learning, and
    Not Yet Learnt", eq. (3), where the reference was trained on held-out data. Train on the mean
    loss of the places.

    Args:
        loss, reference_loss: [B], any floating type; neither needs a graph.
        count: from 1 to B.

    Returns: [count] int64. Raises InvalidInput.
    """
    delta = residual(loss, reference_loss)
    if not 1 <= count <= len(delta):
        raise InvalidInput(f"count={count} of a batch of {len(delta)} samples")
    return delta.topk(count).indices
