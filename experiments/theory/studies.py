"""What is measured, seed by seed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from experiments.theory.problems import D, Linear, Logistic, Problem, Vector
from experiments.theory.training import drrho, erm

PROBLEMS: list[Problem] = [Linear(), Logistic()]
RHOS = (1.0, 3.0, 10.0)
FIXED_M = 2**14
SIZES = [2**k for k in range(6, 15)]  # n, at m = FIXED_M
REFERENCES = [2**k for k in range(10, 19)]  # m, at n = 2√m
KEPT = 1e-4  # distance of θ from the reference's: solving is exact to some 1e-5
BIAS = 0.3  # length of the offset in the biased reference's θ
VARIANCE_SAMPLES = 100_000


@dataclass(frozen=True)
class Measurement:
    problem: str
    study: str  # which panel of the figure
    size: int  # n where the study varies n, otherwise m
    method: str
    value: float  # an excess risk, or the variance term
    kept: bool = False  # whether training gave the reference back


def measure(seed: int) -> list[Measurement]:
    """All studies of one seed. ERM and every DRRHO of a study share their training samples."""
    found = []
    for number, problem in enumerate(PROBLEMS):
        random = np.random.default_rng([seed, number])
        for study, size, outcomes in _studies(problem, random):
            found += [Measurement(problem.name, study, size, *outcome) for outcome in outcomes]
    return found


Outcomes = Iterator[tuple[str, float, bool]]  # method, value, kept


def _studies(problem: Problem, random: np.random.Generator) -> Iterator[tuple[str, int, Outcomes]]:
    trained = erm(problem, problem.sample(FIXED_M, random))
    direction = random.normal(size=D)
    biased = problem.best + BIAS * direction / np.linalg.norm(direction)
    for n in SIZES:
        yield "n", n, _excesses(problem, n, trained, random)
        yield "biased", n, _excesses(problem, n, biased, random)
    for m in REFERENCES:
        n = 2 * round(m**0.5)
        reference = erm(problem, problem.sample(m, random))
        yield "n = 2√m", m, _excesses(problem, n, reference, random)
        yield "variance", m, _variance_terms(problem, n, reference, random)


def _excesses(problem: Problem, n: int, reference: Vector, random: np.random.Generator) -> Outcomes:
    data = problem.sample(n, random)
    yield "reference", problem.excess(reference), True
    yield "ERM", problem.excess(erm(problem, data)), False
    for rho in RHOS:
        theta = drrho(problem, data, reference, rho)
        kept = bool(np.linalg.norm(theta - reference) < KEPT)
        yield f"DRRHO, ρ = {rho:g}", problem.excess(theta), kept


def _variance_terms(
    problem: Problem, n: int, reference: Vector, random: np.random.Generator
) -> Outcomes:
    """√(2ρ Var/n) at θ* for ρ = 1, which the bound adds to the best risk."""
    data = problem.sample(VARIANCE_SAMPLES, random)
    best, _ = problem.losses(problem.best, data)
    its, _ = problem.losses(reference, data)
    for method, loss in (("without a reference", best), ("with the reference", best - its)):
        yield method, float(np.sqrt(2 * loss.var() / n)), False
