"""Risks of a per-sample loss, steered by a reference: the DRRHO family.

With residuals δ_i = ℓ(w, z_i) − ℓ(w_ref, z_i), which are signed, and q uniform over n samples, each
risk is the worst weighted mean of δ within a family of distributions p:

    risk            primal                                  dual, minimised
    KLRisk          sup Σ p δ − τ KL(p‖q)                   τ log mean exp(δ/τ), nothing to minimise
    KLBallRisk      sup Σ p δ,  KL(p‖q) ≤ ρ/n               τ log mean exp(δ/τ) + τρ/n,  τ ≥ 0
    CVaRRisk        sup Σ p δ,  p ≤ q/α, α = k/n            μ + mean (δ − μ)₊/α,  μ
    ChiSquareRisk   sup Σ p δ,  ½ Σ q (p/q − 1)² ≤ ρ/n      η + √((1 + 2ρ/n) mean (δ − η)₊²),  η

By the envelope theorem a risk's gradient is that of the weighted mean Σ p_i ℓ_i with the worst p
held fixed, so that minimising it is training with weights that follow the model.

``ρ`` means the same in both balls: radius ρ/n, so that for large n each risk comes to
mean δ + √(2ρ Var(δ)/n), the bound of the theory. Sources: Wei et al. 2025, "Model Steering:
Learning with a Reference Model Improves Generalization Bounds and Scaling Laws" (the risk on
residuals); Duchi & Namkoong 2019, "Variance-based Regularization with Convex Objectives" (ρ/n and
the variance); Levy et al. 2020, "Large-Scale Methods for Distributionally Robust Optimization" (the
χ² and CVaR duals); Rockafellar & Uryasev 2000, "Optimization of Conditional Value-at-Risk" (μ).

**A batch that is the dataset, or one of many.** Made without ``n``, a risk takes the samples that
it is given for all there are. Made with ``n``, it estimates the risk over a dataset of n samples
from uniformly drawn batches of B, which come with their ``index``. What it must remember depends on
what the worst p_i needs to know of the other samples:

- KLRisk, and KLBallRisk with a learned τ: one number, u = mean exp(δ/τ), as a moving average over
  batches (``MeanExp``).
- CVaRRisk's dual form: one number, μ, which is learned.
- KLBallRisk solved exactly, CVaRRisk by top-k and ChiSquareRisk: every sample's δ, as it was last
  seen (``LastSeen``). Before its first visit a sample is left out, so the first batch is a dataset
  of its own. A step then costs O(n), or O(n log n) for the χ² ball: some tenths of a second at
  n = 10⁶, where the first two kinds are the better choice.

With m samples seen and p the worst distribution over them, the gradient is
(m/B) Σ_{i in B} p_i ∇ℓ_i, whose mean over batches is the full gradient where the remembered δ are
those of the present model. State belongs to one process: with several ranks, each knows the batches
that it was given. A risk within what DistributedDataParallel wraps needs broadcast_buffers=False.

State follows training alone. In evaluation mode, or under no_grad, a batch counts in what comes out
as a step would have counted it, and is forgotten.
"""

from rhocache_trainer.risk.base import RiskOutput
from rhocache_trainer.risk.chi_square import ChiSquareRisk
from rhocache_trainer.risk.cvar import CVaRRisk
from rhocache_trainer.risk.kl import KLRisk
from rhocache_trainer.risk.kl_ball import KLBallRisk

__all__ = ["CVaRRisk", "ChiSquareRisk", "KLBallRisk", "KLRisk", "RiskOutput"]
