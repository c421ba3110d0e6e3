"""Two problems whose excess risk is known: linear and logistic regression on Gaussian inputs.

Both are well specified, so the best model is the true one, θ*.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit

Vector = NDArray[np.float64]

D = 5
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class Sample:
    x: Vector  # [n, d]
    y: Vector  # [n]


class Linear:
    """y = x·θ* + noise of variance 1; loss ½ (y − x·θ)²."""

    name = "linear regression"
    best = np.ones(D) / np.sqrt(D)

    def sample(self, n: int, random: np.random.Generator) -> Sample:
        x = random.normal(size=(n, D))
        return Sample(x, x @ self.best + random.normal(size=n))

    def losses(self, theta: Vector, data: Sample) -> tuple[Vector, Vector]:
        """The losses, [n], and their derivatives in x·θ, [n]."""
        error = data.x @ theta - data.y
        return 0.5 * error**2, error

    def excess(self, theta: Vector) -> float:
        return 0.5 * float(((theta - self.best) ** 2).sum())


class Logistic:
    """P(y = 1) = σ(x·θ*), y = ±1; loss log(1 + exp(−y x·θ))."""

    name = "logistic regression"
    best = np.ones(D) / np.sqrt(D)

    def sample(self, n: int, random: np.random.Generator) -> Sample:
        x = random.normal(size=(n, D))
        return Sample(x, np.where(random.random(n) < expit(x @ self.best), 1.0, -1.0))

    def losses(self, theta: Vector, data: Sample) -> tuple[Vector, Vector]:
        margin = data.y * (data.x @ theta)
        return np.logaddexp(0, -margin), -data.y * expit(-margin)

    def excess(self, theta: Vector) -> float:
        """The mean KL divergence of σ(x·θ) from σ(x·θ*), by quadrature.

        (x·θ*, x·θ) is a Gaussian pair, so two dimensions are enough.
        """
        length = np.linalg.norm(self.best)
        along = theta @ self.best / length
        across = np.sqrt(max(theta @ theta - along**2, 0.0))
        true = length * _NODES[:, None]
        model = along * _NODES[:, None] + across * _NODES
        divergence = expit(true) * (log_expit(true) - log_expit(model))
        divergence += expit(-true) * (log_expit(-true) - log_expit(-model))
        return float(_WEIGHTS @ divergence @ _WEIGHTS)


Problem = Linear | Logistic
