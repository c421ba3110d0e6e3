"""docs/results/cost.md and its figure, from what was measured."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment
from matplotlib import rc_context
from matplotlib.figure import Figure

from experiments.cost.cost import Cost
from experiments.figures import COLOURS, GREY, SETTINGS

EPOCHS = (1, 2, 4, 8, 16, 32, 64)
TITLE = "What a training costs"


def read(path: Path) -> list[Cost]:
    return [Cost.model_validate_json(line) for line in path.read_text().splitlines()]


def write(folder: Path, environment: Environment, costs: Sequence[Cost]) -> None:
    page = environment.get_template("cost.md.j2").render(title=TITLE, costs=costs, epochs=EPOCHS)
    (folder / "cost.md").write_text(page)
    draw(folder / "cost.svg", costs)


def draw(path: Path, costs: Sequence[Cost]) -> None:
    """The whole training, as so many times one without a reference."""
    with rc_context(SETTINGS):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        axes.grid(alpha=0.3)
        for cost, colour in zip(costs, COLOURS, strict=False):
            for way, line in (("cached", "-"), ("live", "--")):
                axes.plot(
                    EPOCHS,
                    [cost.total(epochs, way) / epochs for epochs in EPOCHS],
                    color=colour,
                    linestyle=line,
                    marker="o",
                    label=f"{cost.target} by {cost.reference}, {way}",
                )
        axes.axhline(1, color=GREY, linestyle=":", label="no reference")
        axes.set_xscale("log", base=2)
        axes.set_xticks(EPOCHS, [str(epochs) for epochs in EPOCHS])
        axes.minorticks_off()
        axes.set_xlabel("epochs")
        axes.set_ylabel("time, without a reference = 1")
        figure.legend(loc="outside right center", framealpha=0, fontsize="small")
        figure.suptitle(TITLE, color=GREY)
        figure.savefig(path, metadata={"Date": None}, transparent=True)
