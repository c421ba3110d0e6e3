"""A model that learns: what belongs to an update of its weights, and what of it is saved."""

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rhocache_schemas.cache.documents import Manifest
from rhocache_schemas.errors import InvalidInput
from rhocache_trainer.data.dataset import Batch
from rhocache_trainer.loss.contrastive import LossOutput
from rhocache_trainer.model.clip import build_model, normalizer
from rhocache_trainer.model.evaluating import evaluating
from rhocache_trainer.model.freeze import freeze
from rhocache_trainer.objectives import Features, build_objective
from rhocache_trainer.optim import (
    build_optimizer,
    build_scheduler,
    build_temperature_optimizer,
)
from rhocache_trainer.training.accumulation import backward_in_parts, joined
from rhocache_trainer.training.config import TrainConfig

_LARGEST_LOGIT_SCALE = math.log(100)  # as in the CLIP paper, and in open_clip's training

Part = tuple[Tensor, Tensor]  # images uint8 [b, 3, height, width], tokens [b, context length]


@dataclass(frozen=True, slots=True)
class Update:
    """What a step has come to."""

    out: LossOutput
    batch: Batch  # the pairs that were trained on
    gradient_norm: Tensor  # 0-dim, before clipping


class Learner:
    """A model, its objective and their optimizers. Equal on all ranks but for the random state."""

    def __init__(self, config: TrainConfig, fabric: Fabric) -> None:
        """Raises InvalidInput for a model that can't be made, or frozen so."""
        self._config = config
        self._fabric = fabric
        torch.manual_seed(config.seed)
        self.model = build_model(config.model, config.pretrained, config.preprocess)

    def prepare(self, n: int, manifest: Manifest | None, total_steps: int) -> None:
        """Make ready for ``total_steps`` over pairs that are numbered below ``n``.

        Raises InvalidInput for an objective that does not suit the model or the cache.
        """
        config, fabric = self._config, self._fabric
        # Convolutions are faster with channels last, on CPUs as well; nothing else changes.
        module = self.model.module.to(fabric.device, memory_format=torch.channels_last)
        objective = build_objective(config.objective, n, manifest)
        self.objective = objective.to(fabric.device)
        self._check_bias(module)
        freeze(module, config.freeze)
        if self.objective.own_temperature:
            module.logit_scale.requires_grad_(False)
            if module.logit_bias is not None:
                module.logit_bias.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise InvalidInput("freeze leaves nothing of the model to train")
        self.normalize = normalizer(self.model.preprocess_cfg, fabric.device)
        settings = config.optimizer
        optimizer = build_optimizer(settings, module)
        self._schedulers = [build_scheduler(settings, optimizer, total_steps)]
        tau_lr = getattr(config.objective, "tau_lr", settings.lr)
        temperature = build_temperature_optimizer(settings, objective.parameters(), tau_lr)
        if temperature is not None:
            self._schedulers.append(build_scheduler(settings, temperature, total_steps))
        self.average = None
        if config.ema is not None:
            average = get_ema_multi_avg_fn(config.ema)
            self.average = AveragedModel(module, multi_avg_fn=average, use_buffers=True)
        compiled: Any = torch.compile(module, backend=config.compile) if config.compile else module
        self._wrapped, fused = fabric.setup(compiled, optimizer)
        # Every rank has the whole gradient of τ, so that there is nothing to set up.
        self.optimizers: list[Any] = [fused] if temperature is None else [fused, temperature]
        if fabric.world_size > 1:
            torch.manual_seed(config.seed + fabric.global_rank)  # dropout is each rank's own

    @property
    def lr(self) -> float:
        """Of the weights' next update."""
        return self.optimizers[0].param_groups[0]["lr"]

    def start_epoch(self, epoch: int) -> None:
        self._wrapped.train()
        self.objective.start_epoch(epoch, self._config.epochs)

    def update(self, read: Batch, *, steering: bool) -> Update:
        """Make one step on this rank's pairs; ``steering`` asks what its gradient is made of."""
        batch = self.objective.select(self._score, read)
        for module in (self._wrapped, self.objective):
            module.zero_grad()
        out = backward_in_parts(
            self._encode,
            self._parts(batch),
            lambda features: self.objective(features, batch, steering=steering),
            recompute=self._config.accumulation.recompute,
            model=self.model.module,
            backward=self._fabric.backward,
            no_sync=lambda: self._fabric.no_backward_sync(self._wrapped),
        )
        largest = self._config.optimizer.clip_grad_norm or math.inf
        norm = clip_grad_norm_(self._wrapped.parameters(), largest)
        for step in chain(self.optimizers, self._schedulers):
            step.step()
        module = self.model.module
        if not self.objective.own_temperature:
            with torch.no_grad():
                module.logit_scale.clamp_(0, _LARGEST_LOGIT_SCALE)
        if self.average is not None:
            self.average.update_parameters(module)
        return Update(out, batch, norm)

    def give_temperature(self, tau: float) -> None:
        """An exported model carries the temperature that it was trained at."""
        if self.objective.own_temperature:
            for module in self.modules():
                module.get_parameter("logit_scale").data.fill_(-math.log(tau))

    def modules(self) -> list[nn.Module]:
        """The model, and its moving average where there is one."""
        average: list[nn.Module] = [] if self.average is None else [self.average.module]
        return [self.model.module, *average]

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._stateful().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])

    def _stateful(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"model": self.model.module, "objective": self.objective}
        parts |= {f"optimizer_{n}": each for n, each in enumerate(self.optimizers)}
        parts |= {f"scheduler_{n}": each for n, each in enumerate(self._schedulers)}
        return parts if self.average is None else parts | {"average": self.average}

    def _encode(self, part: Part) -> Features:
        image, tokens = part
        return self._wrapped(self.normalize(image), tokens)

    def _score(self, batch: Batch) -> Features:
        """As an evaluation would: without dropout, and without moving BatchNorm's statistics."""
        with evaluating(self._wrapped):
            return joined([self._encode(part) for part in self._parts(batch)])

    def _parts(self, batch: Batch) -> list[Part]:
        parts = self._config.accumulation.parts
        return list(zip(batch.image.chunk(parts), batch.tokens.chunk(parts), strict=True))

    def _check_bias(self, module: Any) -> None:
        name = self._config.objective.name
        if name in ("siglip", "jest") and module.logit_bias is None:
            raise InvalidInput(
                f"objective {name} needs a model with a logit bias: set model.init_logit_bias, "
                "as to -10, and model.init_logit_scale to 2.3"
            )
        if name in ("clip", "distill") and module.logit_bias is not None:
            module.logit_bias.requires_grad_(False)  # the softmax does not see it
