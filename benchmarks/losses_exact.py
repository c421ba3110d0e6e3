"""How exact global contrastive losses are, against float64 with the whole matrix at hand.

    python -m benchmarks.losses_exact CACHE

CACHE is one of few enough pairs for their matrix: that of examples/icons has 3,072.
"""

from typing import Annotated

import numpy as np
import typer

from rhocache_schemas.cache.reader import CacheReader
from rhocache_schemas.job.kinds.losses import LossesSpec
from rhocache_workers.over_cache.contrastive import Losses
from rhocache_workers.over_cache.embeddings import read_blocks

TAUS = (1.0, 0.1, 0.03, 0.01, 0.001)
SAMPLES = (100, 1000)


def main(cache: Annotated[str, typer.Argument(help="A committed cache.")]) -> None:
    opened = CacheReader.open(cache)
    (rows,) = read_blocks(opened, list(opened.index), at_least=2**62)
    similarities = rows.image.astype(float) @ rows.text.astype(float).T

    def exact(tau: float) -> np.ndarray:
        exponents = (similarities - similarities.diagonal()[:, None]) / tau
        return np.logaddexp.reduce(exponents, axis=1) - np.log(len(exponents))

    def computed(column: str, tau: float, sample: int | None = None) -> np.ndarray:
        spec = LossesSpec(cache=cache, output="none", tau=tau, sample=sample)
        tables = [table for _, table in Losses(spec, opened).rows_of(list(opened.index))]
        return np.concatenate([table[column].drop_null().to_numpy() for table in tables])

    print(f"{len(similarities)} pairs, d = {rows.image.shape[1]}\n")
    print("| τ | largest error of image_loss |" + "".join(f" within, M = {m} |" for m in SAMPLES))
    print("|---|---|" + "---|" * len(SAMPLES))
    for tau in (1 / opened.manifest.logit_scale, *TAUS):
        losses = exact(tau)
        cells = [f"{tau:.4g}", f"{np.abs(computed('image_loss', tau) - losses).max():.1g}"]
        for sample in SAMPLES:
            low, high = (computed(f"image_{end}", tau, sample) for end in ("low", "high"))
            cells.append(f"{((low <= losses) & (losses <= high)).mean():.3f}")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    typer.run(main)
