"""What sharing cells between tables and training them in cohorts saved, counted in the epochs of the records."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.metrics import IMAGES_PER_SECOND
from pld_grid.report.figures.style import STYLES, Figure, annotate_bar, draw_bars, format_bar_axes, render_figure
from pld_grid.report.table import Table
from pld_grid.store.records import CellRecord, Records
from pld_grid.util.csv_text import csv_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MplFigure

# A pass over the training images: batches, epoch, speed. Students that are trained side by side share all three.
Pass = tuple[tuple[Any, ...], int, float]
COST_NAME = "cost"
SHARING = ("for this table alone", "for other tables too")
SCENARIOS = ("each table on its own", "each cell once", "each cell once, in cohorts (as it was)")
WORK = ("epochs of training", "passes over the training images,\nloaded and augmented", "passes through a teacher")


@dataclass(frozen=True)
class Cost:
    """How many trainings each table needs (SHARING), and how many epochs each kind of WORK takes (SCENARIOS).

    `distinct` trainings are counted; `unknown` ones have no recorded epochs and are not.
    """

    trainings: dict[str, tuple[int, int]]
    epochs: dict[str, tuple[int, int, int]]
    distinct: int
    unknown: int

    @property
    def csv(self) -> str:
        """Both panels, one line per bar."""
        bars: list[tuple[str, Sequence[str], Sequence[int]]]
        bars = [(f"trainings of {name}", SHARING, counts) for name, counts in self.trainings.items()]
        bars += [(" ".join(work.split()), SCENARIOS, counts) for work, counts in self.epochs.items()]
        rows = [[what, how, str(n)] for what, hows, counts in bars for how, n in zip(hows, counts, strict=True)]
        return csv_text(("what", "how", "count"), rows)

    @property
    def caption(self) -> str:
        """What was counted, and what was not."""
        listed = sum(map(sum, self.trainings.values()))
        text = (
            f"Left: {listed} trainings, teachers' included, stand behind the tables; {self.distinct} were run."
            " Right: their epochs. Students that were trained side by side, as the records show, shared each batch and"
            " the teacher's pass on it. Passes for validation and epochs that an interruption repeated are not counted."
            " An epoch takes longer for some models than for others, so the counts are not proportional to time."
        )
        total = self.distinct + self.unknown
        unknown = f" {self.unknown} of {total} trainings have no recorded epochs and are left out."
        return text + (unknown if self.unknown else "")

    @property
    def alt(self) -> str:
        """The counts in words."""
        texts = [
            f"{' '.join(work.split())}: " + ", ".join(f"{n} {how}" for n, how in zip(counts, SCENARIOS, strict=True))
            for work, counts in self.epochs.items()
        ]
        return f"Bars of trainings by table, and of epochs. {'; '.join(texts)}."


def count_cost(tables: Sequence[Table], records: Records) -> Cost | None:
    """Count trainings and epochs; return None if no training's epochs are known."""
    cells = {i: cell for table in tables for i, cell in table.cells.items() if not cell.is_measurement}
    passes = {i: own for i, cell in cells.items() if (own := _list_passes(cell, records.get(i)))}
    if not passes:
        return None
    uses = [passes.keys() & table.cells.keys() for table in tables]
    trainings = {}
    for number, (table, used) in enumerate(zip(tables, uses, strict=True)):
        others = set[str]().union(*(uses[:number] + uses[number + 1 :]))
        trainings[table.name] = (len(used - others), len(used & others))

    def count(counted: Set[str]) -> tuple[int, int, int]:
        """Return the epochs of cells if they are counted by table, by cell, and by pass."""
        by_table = sum(len(passes[i]) for used in uses for i in used & counted)
        return by_table, sum(len(passes[i]) for i in counted), len(set[Pass]().union(*(passes[i] for i in counted)))

    by_table, by_cell, by_pass = count(passes.keys())
    with_teacher = count({i for i in passes if cells[i].teacher is not None})
    counts = ((by_table, by_cell, by_cell), (by_table, by_cell, by_pass), with_teacher)
    return Cost(trainings, dict(zip(WORK, counts, strict=True)), len(passes), len(cells) - len(passes))


def _list_passes(cell: Cell, record: CellRecord | None) -> set[Pass]:
    speed = IMAGES_PER_SECOND.name
    epochs = record.epochs if record is not None else ()
    return {(cell.stream(), each.epoch, each.metrics[speed]) for each in epochs if speed in each.metrics}


def draw_cost(cost: Cost) -> Figure:
    """Draw the trainings by table on the left, the epochs on the right."""

    def draw(canvas: "MplFigure") -> None:
        left, right = canvas.subplots(1, 2, width_ratios=(2, 3))
        _draw_trainings(left, cost)
        _draw_epochs(right, cost)
        for axes in (left, right):
            format_bar_axes(axes)
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.3, handlelength=1.6)

    size = (8.4, max(2.9, 1.2 + 0.24 * len(cost.trainings)))
    title = "What sharing and cohorts saved"
    return render_figure(size, draw, name=COST_NAME, title=title, caption=cost.caption, alt=cost.alt, csv=cost.csv)


def _draw_trainings(axes: "Axes", cost: Cost) -> None:
    names = list(cost.trainings)
    start = [0] * len(names)
    for part, (label, style) in enumerate(zip(SHARING, (STYLES[0], STYLES[4]), strict=True)):
        counts = [cost.trainings[name][part] for name in names]
        draw_bars(axes, names, counts, style, left=start, height=0.7, label=label)
        start = [a + b for a, b in zip(start, counts, strict=True)]
    _annotate_counts(axes, start, range(len(names)))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("Trainings")


def _draw_epochs(axes: "Axes", cost: Cost) -> None:
    for scenario, (label, style) in enumerate(zip(SCENARIOS, (STYLES[6], STYLES[4], STYLES[0]), strict=True)):
        counts = [cost.epochs[work][scenario] for work in WORK]
        y = [index + (scenario - 1) * 0.27 for index in range(len(WORK))]
        draw_bars(axes, y, counts, style, height=0.25, label=label)
        _annotate_counts(axes, counts, y)
    axes.set_yticks(range(len(WORK)), WORK)
    axes.set_ylim(len(WORK) - 0.5, -0.5)
    axes.set_xlabel("Epochs, all tables together")


def _annotate_counts(axes: "Axes", counts: Sequence[int], y: Sequence[float]) -> None:
    for count, position in zip(counts, y, strict=True):
        annotate_bar(axes, f"{count:,}", count, position)
