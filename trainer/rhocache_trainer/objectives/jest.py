"""Joint example selection (JEST, Evans et al. 2024): pairs that are learnable together."""

import math
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal

import torch
from open_clip.loss import SigLipLoss
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.data.join import PairSource
from rhocache_trainer.distributed.collectives import Ranks
from rhocache_trainer.loss.distillation import Distillation, DistillationWeights
from rhocache_trainer.loss.references import References
from rhocache_trainer.objectives.base import (
    Features,
    ObjectiveConfig,
    OpenClipLoss,
    Output,
    at_logit_scale,
    reference_of,
    references_of,
)
from rhocache_trainer.settings import Positive


class JointSelection(ObjectiveConfig):
    needs_cache: ClassVar[bool] = True
    needs_logit_bias: ClassVar[bool] = True

    filter_ratio: Annotated[
        float, Field(ge=0, lt=1, description="share of the pairs that are read and not trained on")
    ] = 0.8
    chunks: Annotated[Positive, Field(description="in which the pairs are chosen")] = 16
    top_k: Annotated[bool, Field(description="the best of a chunk, and not a sample")] = False
    reference_bias: Annotated[
        float | None, Field(description="logit bias, for a reference that has none of its own")
    ] = None

    def super_batch(self, batch_size: int) -> int:
        return round(batch_size / (1 - self.filter_ratio))

    def bias_of(self, references: References) -> float:
        """Raises InvalidInput where nobody says what it is."""
        bias = references.bias if self.reference_bias is None else self.reference_bias
        if bias is None:
            raise InvalidInput(
                "the cache's reference was trained without a logit bias, so it has no sigmoid "
                "loss; set objective.reference_bias, as to -10"
            )
        return bias


class JestConfig(JointSelection):
    """The sigmoid loss of pairs that are chosen together, out of a larger batch, as learnable."""

    name: Literal["jest"] = "jest"

    def build(self, pairs: PairSource) -> "Jest":
        return Jest(self, references_of(pairs))


class JestDistillConfig(JointSelection, DistillationWeights):
    """JEST's choice of pairs, and distillation from the same cache beside the sigmoid loss.

    Udandarao et al. 2024, "Active Data Curation Effectively Distills Large-Scale Multimodal
    Models", call it ACED where one reference does both.
    """

    name: Literal["jest+distill"] = "jest+distill"

    def build(self, pairs: PairSource) -> "JestDistill":
        return JestDistill(self, references_of(pairs))


class Jest(OpenClipLoss):
    """The sigmoid loss of the pairs, out of a super-batch, that JEST chooses.

    A super-batch is this rank's; a pair's score is how much worse the target does on it than the
    reference, whose share of it comes from the cache.
    """

    def __init__(self, config: JointSelection, references: References) -> None:
        """Raises InvalidInput for references without a logit bias, where none is set."""
        ranks = Ranks()
        super().__init__(SigLipLoss(rank=ranks.rank, world_size=ranks.world_size))
        config.bias_of(references)
        self._config = config
        self.references = self._references = references

    @torch.no_grad()
    def select(self, encode: Callable[[Batch], Features], batch: Batch) -> Batch:
        size = round(len(batch.index) * (1 - self._config.filter_ratio))
        features = encode(batch)
        learner = pair_losses(
            features["image_features"].float(),
            features["text_features"].float(),
            features["logit_scale"],
            features["logit_bias"],
        )
        similarities = self._references.similarities(*reference_of(batch))
        bias = self._config.bias_of(self._references)
        reference = _pair_losses(self._references.scale * similarities + bias)
        chosen = select_jointly(
            learner - reference, size, self._config.chunks, top_k=self._config.top_k
        )
        return batch.take(chosen)


class JestDistill(Jest):
    """The sigmoid loss of the chosen pairs, and distillation at the model's logit scale."""

    def __init__(self, config: JestDistillConfig, references: References) -> None:
        super().__init__(config, references)
        self._distillation = Distillation(config, references)

    def forward(self, features: Features, batch: Batch, *, steering: bool = False) -> Output:  # noqa: ARG002
        scale = features["logit_scale"]
        target = features["image_features"], features["text_features"]
        taught = self._distillation(target, reference_of(batch), (scale, scale))
        return at_logit_scale(self.loss(**features) + taught, scale)


def pair_losses(image: Tensor, text: Tensor, scale: Tensor | float, bias: Tensor | float) -> Tensor:
    """−log σ of each pair's logit, of minus it off the diagonal: [B, B], which sum to B times the
    sigmoid loss (Zhai et al. 2023, section 3.2)."""
    return _pair_losses(scale * image @ text.T + bias)


def _pair_losses(logits: Tensor) -> Tensor:
    signs = 2 * torch.eye(len(logits), device=logits.device) - 1
    return -logsigmoid(signs * logits)


def select_jointly(scores: Tensor, size: int, chunks: int, *, top_k: bool) -> Tensor:
    """Choose ``size`` of B pairs, a chunk at a time (Evans et al. 2024, section 3).

    ``scores`` [B, B] are losses of pairs less the reference's. A pair's chance to come into the
    next chunk is the softmax over what it would add to the batch that is chosen already: its own
    score, and those that it has with the chosen ones, both ways. ``top_k`` takes the largest
    instead. Draws from torch's random state, on the CPU. Returns int64 [size], in order.
    """
    count = len(scores)
    chosen = torch.zeros(count, dtype=torch.bool, device=scores.device)
    own = scores.diagonal()
    for number in range(min(chunks, size)):
        draws = size * (number + 1) // min(chunks, size) - int(chosen.sum())
        taken = chosen.to(scores.dtype)
        logits = (own + taken @ scores + scores @ taken).masked_fill(chosen, -math.inf)
        if not top_k:  # the largest of logits plus Gumbel noise are a sample without replacement
            noise = -torch.log(-torch.log(torch.rand(count).clamp(1e-20, 1 - 1e-7)))
            logits = logits + noise.to(logits)
        chosen[logits.topk(draws).indices] = True
    return chosen.nonzero().squeeze(1)
