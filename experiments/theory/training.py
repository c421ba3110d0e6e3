"""Empirical risk minimisation, and minimisation of the χ² DRRHO risk, to high accuracy."""

import numpy as np
import torch
from scipy.optimize import minimize

from experiments.theory.problems import D, Problem, Sample, Vector
from rhocache_trainer import ChiSquareRisk


def erm(problem: Problem, data: Sample) -> Vector:
    """The θ of the smallest mean loss."""

    def mean_loss(theta: Vector) -> tuple[float, Vector]:
        loss, slope = problem.losses(theta, data)
        return loss.mean(), slope @ data.x / len(loss)

    return minimize(mean_loss, np.zeros(D), jac=True, method="BFGS", options={"gtol": 1e-8}).x


def drrho(problem: Problem, data: Sample, reference: Vector, rho: float) -> Vector:
    """The θ of the smallest χ² DRRHO risk.

    Minimises the dual η + √((1 + 2ρ/n) (mean (δ − η)₊² + s²)) over θ and η together, where s
    smooths the kink that the risk has at the reference, and goes to almost nothing. The library's
    risk then decides between what was found and the reference.
    """
    n = len(data.y)
    stretch = np.sqrt(1 + 2 * rho / n)
    reference_loss, _ = problem.losses(reference, data)

    def dual(point: Vector, smoothing: float) -> tuple[float, Vector]:
        theta, eta = point[:-1], point[-1]
        loss, slope = problem.losses(theta, data)
        above = np.maximum(loss - reference_loss - eta, 0)
        root = np.sqrt((above**2).mean() + smoothing**2)
        weights = stretch * above / (n * root)
        value = eta + stretch * root
        return value, np.append((weights * slope) @ data.x, 1 - weights.sum())

    point = np.append(erm(problem, data), -1.0)
    for smoothing in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        point = minimize(
            dual, point, (smoothing,), jac=True, method="BFGS", options={"gtol": 1e-7}
        ).x
    found = point[:-1]

    def risk(theta: Vector) -> float:
        loss, _ = problem.losses(theta, data)
        residuals = torch.from_numpy(loss), torch.from_numpy(reference_loss)
        return float(ChiSquareRisk(rho)(*residuals).value)

    return found if risk(found) < risk(reference) else reference
