"""The contrastive risks: DRRHO with a reference, and the global contrastive loss without one.

Both are

    F = mean_i τ1 [log(ε + mean_{j≠i} exp d1_ij) + ρ]
      + mean_i τ2 [log(ε + mean_{j≠i} exp d2_ij) + ρ]
with, for target cosines s and reference cosines r (first index image, second index text),

    d1_ij = [(s_ij − s_ii) − (r_ij − r_ii)] / τ1      image i against texts j
    d2_ij = [(s_ji − s_ii) − (r_ji − r_ii)] / τ2      text i against images j

The inner means run over the whole dataset, so they are estimated by moving averages u (one a pair
and side). The global contrastive loss is the same with r = 0. See Yuan et al. 2022 (SogCLR), Qiu
et al. 2023 (iSogCLR, a temperature for each pair), Wei et al. 2024 (FastCLIP) and Wei et al. 2025
(DRRHO risk minimisation).
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.distributed.collectives import Ranks
from rhocache_trainer.loss.diagnostics import Steering, explain
from rhocache_trainer.loss.first_order import with_gradients
from rhocache_trainer.loss.moving_average import LogMovingAverage, ShardedLogMovingAverage
from rhocache_trainer.loss.temperature import MAXIMUM, MINIMUM, MODES, Temperature, TemperatureMode
from rhocache_trainer.loss.tiles import LogSums, Side, log_sums, own_residuals, weighted_sums
from rhocache_trainer.loss.validate import FLOATS, check_features, check_gamma, check_index


@dataclass(frozen=True, slots=True)
class LossOutput:
    """``loss`` is the one to call backward on; all are 0-dim tensors.

    ``objective`` is the estimate of F from the moving averages of this batch's pairs; it is F
    itself for a batch of all pairs and γ = 1. ``loss`` has its value, and the gradient that the
    moving averages give. ``tau`` and ``tau_text`` are the (mean) temperatures that were used.
    """

    loss: Tensor
    objective: Tensor
    tau: Tensor
    tau_text: Tensor
    steering: Steering | None = None  # where it was asked for


class _ContrastiveRisk(nn.Module):
    def __init__(
        self,
        n: int,
        tau: float = 0.07,
        temperature: TemperatureMode = "learnable",
        rho: float | None = None,
        gamma: float = 0.8,
        epsilon: float = 1e-14,
        *,
        scaled: bool = True,
        averaged: bool = False,
        sharded: bool = False,
    ) -> None:
        super().__init__()
        if n < 2:
            raise InvalidInput(f"n={n}: a contrastive loss needs at least 2 pairs")
        if temperature not in MODES:
            raise InvalidInput(f"temperature={temperature!r} is not one of {', '.join(MODES)}")
        if not MINIMUM <= tau <= MAXIMUM:
            raise InvalidInput(f"tau={tau} must be at least {MINIMUM} and finite in float32")
        if not 0 <= epsilon < math.inf:
            raise InvalidInput(f"epsilon={epsilon} must be at least 0 and finite")
        if sharded and temperature == "individual":
            raise InvalidInput(
                "sharded: temperature='individual' has temperatures of each pair on every rank; "
                "use learnable, separate or constant ones"
            )
        self.n = n
        if rho is not None and not 0 <= rho < math.inf:
            raise InvalidInput(f"rho={rho} must be at least 0 and finite")
        self.rho = rho
        self._rho_may_be_too_large = rho is not None and temperature != "constant" and scaled
        self._warn_of_rho("log(n−1)", f"n={n}", n)
        self.gamma = gamma
        self.log_epsilon = math.log(epsilon) if epsilon else -math.inf
        self.scaled = scaled
        self.averaged = averaged
        self.temperature = Temperature(tau, temperature, n)
        self.ranks = Ranks()
        self.image_average, self.text_average = (
            ShardedLogMovingAverage(n, self.ranks) if sharded else LogMovingAverage(n)
            for _ in range(2)
        )

    @property
    def gamma(self) -> float:
        """Weight of the new estimate in the moving averages, in (0, 1]. Settable at any time."""
        return self._gamma

    @gamma.setter
    def gamma(self, value: float) -> None:
        self._gamma = check_gamma(value)

    def _warn_of_rho(self, bound: str, size: str, pairs: int) -> None:
        """Warn, once, of a ρ that no τ can meet: m negatives have a divergence of log m at most."""
        if not self._rho_may_be_too_large:
            return
        assert self.rho is not None  # noqa: S101 (it would not be too large)
        largest = math.log(pairs - 1)
        if self.rho > 0 and self.rho >= largest:
            self._rho_may_be_too_large = False
            warnings.warn(
                f"rho={self.rho:g} is not below {bound}={largest:.3g} for {size} pairs, so the "
                f"learnable temperature will fall to its floor of {MINIMUM}; use rho ≤ "
                f"{largest / 2:.2g}, leave it to its default, or have a constant temperature",
                stacklevel=3,
            )

    def _risk(self, features: list[Tensor], index: Tensor, *, steering: bool) -> LossOutput:
        """The risk of this rank's features: image, text, and the same of each reference."""
        image, text = features[:2]
        with torch.autocast(image.device.type, enabled=False):
            batch = self._share(features, index.to(image.device))
            pairs = len(batch.index)
            self._warn_of_rho("log(B−1)", f"a batch of B={pairs}", pairs)
            rho = default_rho(pairs) if self.rho is None else self.rho
            tau_image, tau_text = self.temperature(batch.index)
            rows = batch.side(0, tau_image.detach())
            columns = batch.side(1, tau_text.detach())
            own = own_residuals(rows, columns)
            of_rows, of_columns = self._sums(rows, columns, own, batch)
            image_side = self._side(of_rows, rows.tau, rho, self.image_average, batch.index)
            text_side = self._side(of_columns, columns.tau, rho, self.text_average, batch.index)
            gradients = _gradients(rows, columns, own, image_side, text_side, batch)
            value = (image_side.risk + text_side.risk).mean()
            factor = self.ranks.world_size if self.averaged else 1
            loss = with_gradients(
                value,
                (image, gradients[0].mul_(factor)),
                (text, gradients[1].mul_(factor)),
                (tau_image, _of_each(tau_image, image_side.tau_gradient)),
                (tau_text, _of_each(tau_text, text_side.tau_gradient)),
            )
            return LossOutput(
                loss,
                value,
                tau_image.detach().mean(),
                tau_text.detach().mean(),
                explain(
                    rows,
                    columns,
                    own,
                    of_rows.log,
                    image_side.log_inner,
                    batch.index,
                    batch.start,
                    batch.stop,
                )
                if steering
                else None,
            )

    @torch.no_grad()
    def _share(self, features: list[Tensor], index: Tensor) -> "_Batch":
        """Tell the other ranks of this one's pairs, and learn of theirs.

        Where one rank's part is refused all of them raise, as the others would wait for it.
        """
        refused: InvalidInput | None = None
        try:
            _check(features, index, self.n)
        except InvalidInput as error:
            refused = error
        forms = [0] * len(features) if refused else [_form(part) for part in features]
        status = torch.tensor([0 if refused else len(index), *forms], device=index.device)
        told = [part.tolist() for part in self.ranks.gather(status)]
        if refused:
            raise refused
        sizes = [size for size, *_ in told]
        if 0 in sizes:
            raise InvalidInput(f"rank {sizes.index(0)} has refused its part of the batch")
        widths = [[form // len(FLOATS) for form in each] for _, *each in told]
        if any(other != widths[0] for other in widths):
            raise InvalidInput(f"the ranks' features have different widths: {widths}")
        if sum(sizes) < 2:
            raise InvalidInput("a batch of one pair has no negatives; use at least 2")
        _, *forms = zip(*told, strict=True)
        features = [part.to(_widest(each)) for part, each in zip(features, forms, strict=True)]
        *shared, numbers = self.ranks.gather_rows([*features, index], sizes)
        check_index(numbers, sum(sizes), self.n)
        dtype = torch.promote_types(features[0].dtype, torch.float32)
        start = sum(sizes[: self.ranks.rank])
        stop = start + sizes[self.ranks.rank]
        return _Batch([part.to(dtype) for part in shared], numbers, sizes, start, stop)

    @torch.no_grad()
    def _sums(
        self, rows: Side, columns: Side, own: Tensor, batch: "_Batch"
    ) -> tuple[LogSums, LogSums]:
        """The sums of all images' and all texts' exponents, each rank's rows summed by itself."""
        of_rows, of_columns = log_sums(rows, columns, own, batch.start, batch.stop)
        if batch.whole:
            return of_rows, of_columns
        first, *others = self.ranks.gather(of_columns.stacked())
        merged = LogSums.unstacked(first)
        for other in others:
            merged = merged.merged(LogSums.unstacked(other))
        (stacked,) = self.ranks.gather_rows([of_rows.stacked()], batch.sizes)
        return LogSums.unstacked(stacked), merged

    def _side(
        self, sums: LogSums, tau: Tensor, rho: float, average: LogMovingAverage, index: Tensor
    ) -> "_Anchors":
        log_negatives = math.log(len(index) - 1)
        log_g = sums.log - log_negatives
        log_u = average.update(index, log_g, self.gamma)
        log_inner = torch.logaddexp(log_u, log_u.new_tensor(self.log_epsilon))
        # At most 1/γ, whatever d is: u holds at least γ times this batch's own mean.
        total = torch.exp(log_g - log_inner)
        if self.scaled:
            shift, own_weight = log_inner + log_negatives, total
            risk, tau_gradient = tau * (log_inner + rho), log_inner + rho - total * sums.mean
        else:
            shift, own_weight = log_inner + log_negatives + tau.log(), total / tau
            risk, tau_gradient = log_inner, -total * sums.mean / tau
        return _Anchors(shift, own_weight, tau_gradient, risk, log_inner)


@dataclass(frozen=True, slots=True)
class _Batch:
    """The pairs of all ranks, those of this one from ``start`` to ``stop``."""

    features: list[Tensor]  # [B, d] image and text, [B, d'] the same of each reference
    index: Tensor  # [B]
    sizes: list[int]  # pairs of each rank
    start: int
    stop: int

    @property
    def whole(self) -> bool:
        return self.stop - self.start == len(self.index)

    def side(self, modality: int, tau: Tensor) -> Side:
        features, *reference = self.features[modality::2]
        return Side(features, tuple(reference), tau.to(features.dtype).expand(len(features)))


@dataclass(frozen=True, slots=True)
class _Anchors:
    """Of one side, [B] each."""

    shift: Tensor  # weights are exp(d − shift)
    own_weight: Tensor  # their sum, with which the own pair is pulled together
    tau_gradient: Tensor
    risk: Tensor
    log_inner: Tensor  # log(ε + u)


@torch.no_grad()
def _gradients(
    rows: Side, columns: Side, own: Tensor, image: _Anchors, text: _Anchors, batch: _Batch
) -> tuple[Tensor, Tensor]:
    """Of F by this rank's images and texts: Σ_j w_ij (x_j − x_i) over the other side's features x.

    Every rank weighs its own rows, and its own columns as rows of the transposed matrix: features
    are all that it needs of the others.
    """
    start, stop = batch.start, batch.stop
    of_rows, of_columns = weighted_sums(
        rows, columns, own, image.shift, text.shift, start, stop, both=batch.whole
    )
    if of_columns is None:
        of_columns, _ = weighted_sums(
            columns, rows, own, text.shift, image.shift, start, stop, both=False
        )
    weight = (image.own_weight + text.own_weight)[start:stop, None]
    of_rows.sub_(weight * columns.features[start:stop])
    of_columns.sub_(weight * rows.features[start:stop])
    return of_rows.div_(len(own)), of_columns.div_(len(own))


def _of_each(tau: Tensor, gradient: Tensor) -> Tensor:
    """The gradient by ``tau``, 0-dim or [B], of the mean over B anchors that each have [B]."""
    return gradient / len(gradient) if tau.ndim else gradient.mean()


class GlobalContrastiveLoss(_ContrastiveRisk):
    """The global contrastive loss over n pairs, with or without learned temperatures.

    Args:
        n: pairs in the dataset; ``index`` runs from 0 to n−1.
        tau: temperature to begin with, at least 0.01.
        temperature: ``constant``; ``learnable``, one for all; ``separate``, one for images and one
            for texts as anchors; ``individual``, both for each pair. Give ``parameters()`` an
            optimizer of their own, without weight decay and with a smaller learning rate; for
            ``individual`` one for sparse gradients (torch.optim.SparseAdam).
        rho: ρ of the constraint KL ≤ ρ that a learned temperature answers to. Where τ settles, the
            weights of a batch's negatives have a KL divergence of ρ from uniform; for B pairs (of
            all ranks) that is at most log(B−1), so a larger ρ drives τ to its floor, which is
            warned of. The default is a third of log(B−1). With a constant temperature it only
            adds 2τρ to the objective.
        gamma: weight of the new estimate in the moving averages, in (0, 1]; an attribute that may
            be set at any time, see ``moving_average.cosine_gamma``.
        epsilon: ε in the logarithm.
        scaled: False leaves out the factors τ and the terms τρ, as FastCLIP v0 does.
        averaged: True where the ranks' gradients by the model's parameters get averaged, as by
            DistributedDataParallel, and not added up.
        sharded: True has each rank hold u of a share of the pairs, and not of all: 10 bytes a pair,
            divided by the ranks. Losses, gradients and u are the same to the bit; what u was of a
            batch travels once more. Make the loss once torch.distributed is initialised;
            ``state_dict`` then is of this rank's rows.

    With torch.distributed each rank calls the loss with its own part of the batch; parts may differ
    in size. The objective is that of the whole batch; the gradients by a model's parameters sum
    (or where they are ``averaged``, average) over the ranks to those of one process with the whole
    batch. The state and the gradient of τ are the same on every rank, and need no reduction; within
    what DistributedDataParallel wraps they come to no harm.

    u and τ change in training alone. In evaluation mode, or under no_grad, the output is that of a
    step, u's new estimate included, and nothing is kept of it: a pair that was never seen counts by
    its batch. What torch.utils.checkpoint computes again counts once. The state stays in float32,
    or float64, whatever the module is cast to. There are no second derivatives: they raise
    InvalidInput.

    Raises InvalidInput for values out of range.
    """

    def forward(
        self, image: Tensor, text: Tensor, index: Tensor, *, steering: bool = False
    ) -> LossOutput:
        """Take a batch of B ≥ 2 pairs.

        Args:
            image, text: the target's features, unit vectors [B, d], any floating type; the loss is
                computed in float32 at least, under autocast too.
            index: [B] int64, the pairs' numbers in the dataset, all different.
            steering: whether to tell what the gradient is made of, at the cost of a forward pass.

        Raises InvalidInput, before any state has changed.
        """
        return self._risk([image, text], index, steering=steering)


class DRRhoClipLoss(_ContrastiveRisk):
    """The DRRHO contrastive risk over n pairs, steered by a reference's embeddings.

    The arguments are those of GlobalContrastiveLoss, with n = len(cache).
    """

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        reference_image: Tensor | Sequence[Tensor],
        reference_text: Tensor | Sequence[Tensor],
        index: Tensor,
        *,
        steering: bool = False,
    ) -> LossOutput:
        """Take a batch of B ≥ 2 pairs.

        Args:
            image, text: the target's features, unit vectors [B, d], any floating type; the loss is
                computed in float32 at least, under autocast too.
            reference_image, reference_text: the reference's embeddings of the same pairs, unit
                vectors [B, d']; or those of several references, of whose similarities the smallest
                counts, pair by pair.
            index: [B] int64, the pairs' numbers in the cache, all different.
            steering: whether to tell what the gradient is made of, at the cost of a forward pass.

        Raises InvalidInput, before any state has changed.
        """
        images, texts = _several(reference_image), _several(reference_text)
        if len(images) != len(texts) or not images:
            raise InvalidInput(
                f"reference image features of {len(images)} references, and text features of "
                f"{len(texts)}; give both of each"
            )
        reference = [each for pair in zip(images, texts, strict=True) for each in pair]
        return self._risk([image, text, *reference], index, steering=steering)


def _several(features: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [features] if isinstance(features, Tensor) else features


def _form(features: Tensor) -> int:
    """Width and dtype, as one number."""
    return features.shape[1] * len(FLOATS) + FLOATS.index(features.dtype)


def _widest(forms: Sequence[int]) -> torch.dtype:
    return reduce(torch.promote_types, (FLOATS[form % len(FLOATS)] for form in forms))


def _check(features: list[Tensor], index: Tensor, n: int) -> None:
    check_features("image", "text", *features[:2])
    for reference_image, reference_text in zip(features[2::2], features[3::2], strict=True):
        check_features("reference image", "reference text", reference_image, reference_text)
        if len(reference_image) != len(features[0]):
            raise InvalidInput(
                f"{len(features[0])} pairs, but reference features of {len(reference_image)}"
            )
    check_index(index, len(features[0]), n)


def default_rho(pairs: int) -> float:
    """ρ where none is given, for a batch of so many pairs: a third of the largest divergence.

    With γ between 0.5 and 0.9 the divergence that τ's gradient sees, taken with u, comes to little
    more than half of the largest at any τ (docs/benchmarks/temperature.md).
    """
    return math.log(pairs - 1) / 3
