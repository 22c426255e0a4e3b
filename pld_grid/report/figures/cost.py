"""What sharing cells between tables and training them in cohorts saved, counted in epochs that the records hold."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pld_grid.csvtext import csv_text
from pld_grid.records import Record, Records
from pld_grid.report.figures.canvas import LOOKS, Figure, bar_axes, images, number_at, style
from pld_grid.report.table import Table
from pld_grid.spec import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pass = tuple[tuple[Any, ...], int, float]
# What every trained epoch records, and students that are trained side by side share to the last digit.
RATE = "images_per_second"
COST = "cost"
WAYS = ("each table on its own", "each cell once", "each cell once, in cohorts (as it was)")
WORK = ("epochs of training", "passes over the training images,\nloaded and augmented", "passes through a teacher")


@dataclass(frozen=True)
class Cost:
    """Counts of trainings by table (for it alone, for others too), and of epochs by work and way.

    `unknown` trainings have no recorded epochs, and count nowhere.
    """

    trainings: dict[str, tuple[int, int]]
    epochs: dict[str, tuple[int, int, int]]
    distinct: int
    unknown: int

    @property
    def csv(self) -> str:
        """Both panels, one line per bar."""
        rows = [
            [f"trainings of {name}", part, str(count)]
            for name, counts in self.trainings.items()
            for part, count in zip(("for this table alone", "for other tables too"), counts, strict=True)
        ]
        rows += [
            [" ".join(work.split()), way, str(count)]
            for work, counts in self.epochs.items()
            for way, count in zip(WAYS, counts, strict=True)
        ]
        return csv_text(("what", "how", "count"), rows)

    @property
    def caption(self) -> str:
        """What was counted, and what was not."""
        listed = sum(map(sum, self.trainings.values()))
        text = (
            f"Left: {listed} trainings, teachers' included, stand behind the tables; {self.distinct} were run."
            " Right: their epochs. Students that the records show side by side shared each batch and the teacher's pass"
            " on it; passes for validation are not counted, nor what an interruption made train twice. An epoch takes"
            " longer for some models than for others, so these are no times."
        )
        wanted = self.distinct + self.unknown
        lost = f" {self.unknown} of {wanted} trainings have no recorded epochs and are left out."
        return text + (lost if self.unknown else "")

    @property
    def alt(self) -> str:
        """The counts in words."""
        said = [
            f"{' '.join(work.split())}: " + ", ".join(f"{n} {way}" for n, way in zip(counts, WAYS, strict=True))
            for work, counts in self.epochs.items()
        ]
        return f"Bars of trainings by table, and of epochs. {'; '.join(said)}."


def cost_of(tables: Sequence[Table], records: Records) -> Cost | None:
    """The counts; None if no training's epochs are known."""
    cells = {i: cell for table in tables for i, cell in table.cells.items() if not cell.is_measurement}
    # A stream of batches, in an epoch, at a speed: the same for all that were trained side by side.
    passes = {i: found for i, cell in cells.items() if (found := _passes(cell, records.get(i)))}
    if not passes:
        return None
    uses = [passes.keys() & table.cells.keys() for table in tables]
    trainings = {}
    for number, (table, used) in enumerate(zip(tables, uses, strict=True)):
        others = set[str]().union(*(uses[:number] + uses[number + 1 :]))
        trainings[table.name] = (len(used - others), len(used & others))

    def count(wanted: Set[str]) -> tuple[int, int, int]:
        """Epochs of the wanted cells: table by table, each cell once, each pass once."""
        once = sum(len(passes[i]) for i in wanted)
        return (
            sum(len(passes[i]) for used in uses for i in used & wanted),
            once,
            len(set[Pass]().union(*(passes[i] for i in wanted))),
        )

    everything = count(passes.keys())
    taught = count({i for i in passes if cells[i].teacher is not None})
    counts = dict(zip(WORK, ((*everything[:2], everything[1]), everything, taught), strict=True))
    return Cost(trainings, counts, len(passes), len(cells) - len(passes))


def _passes(cell: Cell, record: Record | None) -> set[Pass]:
    epochs = record.epochs if record is not None else ()
    return {(cell.stream(), each.epoch, each.metrics[RATE]) for each in epochs if RATE in each.metrics}


def cost_figure(cost: Cost) -> Figure:
    """The picture: trainings by table on the left, epochs on the right."""
    from matplotlib.figure import Figure as Canvas

    with style(math=False):
        canvas = Canvas(figsize=(8.4, max(2.9, 1.2 + 0.24 * len(cost.trainings))))
        left, right = canvas.subplots(1, 2, width_ratios=(2, 3))
        names = list(cost.trainings)
        start = [0] * len(names)
        parts = zip(("for this table alone", "for other tables too"), (LOOKS[0], LOOKS[4]), strict=True)
        for part, (how, look) in enumerate(parts):
            counts = [cost.trainings[name][part] for name in names]
            left.barh(names, counts, left=start, height=0.7, color=look.colour, hatch=look.hatch, edgecolor="white",
                      linewidth=0, label=how)  # fmt: skip
            start = [a + b for a, b in zip(start, counts, strict=True)]
        _numbers(left, start, [float(place) for place in range(len(names))])
        left.set_ylim(len(names) - 0.5, -0.5)
        left.set_xlabel("Trainings")
        for way, (how, look) in enumerate(zip(WAYS, (LOOKS[6], LOOKS[4], LOOKS[0]), strict=True)):
            counts = [cost.epochs[work][way] for work in WORK]
            at = [place + (way - 1) * 0.27 for place in range(len(WORK))]
            right.barh(at, counts, height=0.25, color=look.colour, hatch=look.hatch, edgecolor="white", linewidth=0,
                       label=how)  # fmt: skip
            _numbers(right, counts, at)
        right.set_yticks(range(len(WORK)), WORK)
        right.set_ylim(len(WORK) - 0.5, -0.5)
        right.set_xlabel("Epochs, all tables together")
        for axes in (left, right):
            bar_axes(axes)
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.3, handlelength=1.6)
        svg, png = images(canvas)
    return Figure(COST, "What sharing and cohorts saved", cost.caption, cost.alt, svg, png, cost.csv)


def _numbers(axes: "Axes", counts: Sequence[int], at: Sequence[float]) -> None:
    for count, y in zip(counts, at, strict=True):
        number_at(axes, f"{count:,}", count, y)
