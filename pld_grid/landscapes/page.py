"""The folder's `README.md`: the figures, how they are made, and what many slices say of the paper's sentences."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median

from pld_grid.landscapes.survey import Shape, Surveyed
from pld_grid.report.figures.canvas import Figure
from pld_grid.report.markdown import escape, grid_lines

Slices = Sequence[Surveyed]
PLD = "PLD, T = 1"
_NAMES = {"DIST": "DIST", "KD": "KD", "PLD": PLD}
_CONSTRUCTION = """\
Appendix I draws a random teacher `t` of unit norm and two random orthonormal directions `d1`, `d2` in the space of the
logits, and evaluates every loss at the student `s(alpha, beta) = t + alpha d1 + beta d2`, for alpha and beta from -5 to 5.
So it is here, with the losses that the students are trained with, in float64, one point at a time. What it leaves open:

| Question | Here |
| :--- | :--- |
| How many classes? | `--classes`, 1000 as in the paper's experiments. It matters: see below. |
| Drawn from what? | Standard normal numbers, directions by Gram-Schmidt; `--seed`. |
| Which label do PLD and the cross-entropy in KD and DIST see? | `--label-rank`: the teacher's first class, hence a teacher that is right. |
| Which hyperparameters? | The paper's: those of its Table 1. They stand in the caption. |
| DIST's intra term, which correlates over a batch? | A batch of one has no correlation: the term is 1 everywhere and only lifts the surface. With many classes its 1e-8, beside the product of two small norms, lifts the bottom of the dip a little too. |
| How many points? | `--points`, 81 along each side. |"""  # noqa: E501


def landscapes_markdown(figures: Sequence[Figure], found: Slices) -> str:
    """The page, from the two figures and the survey of many slices."""
    parts = ["# Loss landscapes"]
    for figure, number in zip(figures, (3, 4), strict=True):
        links = ", ".join(f"[{kind.upper()}]({figure.name}.{kind})" for kind in ("svg", "png", "csv"))
        parts.append(f"![{escape(figure.alt)}]({figure.name}.png)")
        parts.append(f"**{escape(figure.title)}** (the paper's Figure {number}). {escape(figure.caption)} {links}")
    parts += ["## Construction", _CONSTRUCTION, "## What the paper says of them", *_sentences(found)]
    parts += ["## Shapes", *_shapes(found)]
    return "\n\n".join(parts) + "\n"


def _sentences(found: Slices) -> list[str]:
    """The paper's sentences about its figures, with what the slices of each number of classes say."""
    groups = _by_classes(found)
    rows = [[sentence, *map(measure, groups.values())] for sentence, measure in _MEASURES.items()]
    seeds = sorted({each.seed for each in found})
    note = (
        f"The paper shows one slice. These are {len(seeds)} for each number of classes (seeds {seeds[0]} to "
        f"{seeds[-1]}). Ratios and changes are medians over slices (least to greatest). Every slice and loss: "
        "[slices.csv](slices.csv)."
    )
    return [note, grid_lines(["", *(f"{classes} classes" for classes in groups)], rows)]


def _shapes(found: Slices) -> list[str]:
    """Every loss's shape, for each number of classes."""
    rows = []
    for classes, slices in _by_classes(found).items():
        for name in slices[0].shapes:
            shapes = [each.shapes[name] for each in slices]
            rows.append([
                str(classes), escape(name), _spread([shape.distance for shape in shapes], ".2f"),
                str(sum(shape.on_edge for shape in shapes)),
                f"{median(shape.curvature_at_teacher for shape in shapes):.2g}",
                f"{median(shape.mean_curvature for shape in shapes):.2g}",
                f"{sum(shape.convex for shape in shapes)} of {len(shapes)}",
            ])  # fmt: skip
    headers = [
        "Classes", "Loss", "Minimum's distance from the teacher", "Minima on an edge", "Curvature at the teacher",
        "Mean curvature", "Convex",
    ]  # fmt: skip
    note = (
        "Distances are in logit units: median (least to greatest). A minimum on an edge of the square is not the "
        "plane's. Curvatures are second differences over one logit, in nats per square logit: medians. Convex: none of "
        "them, along the axes or the diagonals, is below -1e-9."
    )
    return [note, grid_lines(headers, rows, range(2, 7))]


def _convex(slices: Slices) -> str:
    def count(name: str) -> str:
        return _count(slices, lambda shapes: shapes[name].convex)

    return ", ".join(f"{loss} {count(name)}" for loss, name in _NAMES.items())


def _dip(slices: Slices) -> str:
    def ratios(name: str) -> list[float]:
        return [each.shapes[name].curvature_at_teacher / each.shapes[name].mean_curvature for each in slices]

    return ", ".join(f"{loss} {median(ratios(name)):.2g}" for loss, name in _NAMES.items())


def _nearer(slices: Slices, than: str) -> str:
    return _count(slices, lambda shapes: shapes[PLD].distance < shapes[than].distance)


def _flatter(slices: Slices, name: str) -> str:
    return _count(slices, lambda shapes: shapes[name].mean_curvature < shapes[PLD].mean_curvature)


def _change(slices: Slices, before: str, after: str) -> str:
    ratios = [each.shapes[after].mean_curvature / each.shapes[before].mean_curvature for each in slices]
    return _spread([100 * (ratio - 1) for ratio in ratios], "+.1f", " %")


def _count(slices: Slices, holds: Callable[[Mapping[str, Shape]], bool]) -> str:
    return f"{sum(holds(each.shapes) for each in slices)} of {len(slices)}"


def _spread(numbers: Sequence[float], spec: str, unit: str = "") -> str:
    return f"{median(numbers):{spec}}{unit} ({min(numbers):{spec}} to {max(numbers):{spec}})"


def _by_classes(found: Slices) -> dict[int, list[Surveyed]]:
    groups: dict[int, list[Surveyed]] = {}
    for each in found:
        groups.setdefault(each.classes, []).append(each)
    return groups


# The paper's sentence, how it is measured here, and that measure of some slices.
_MEASURES: Mapping[str, Callable[[Slices], str]] = {
    '"KD and PLD both induce convex surfaces": slices where they are convex': _convex,
    '"DIST dips sharply yet remains effectively planar": curvature at the teacher over the mean curvature': _dip,
    '"the contour for PLD is more tightly centered around the origin than that of KD": slices where PLD\'s minimum is '
    "nearer to the teacher than KD's": partial(_nearer, than="KD"),
    "the same with KD's cross-entropy left out": partial(_nearer, than="KD without CE"),
    '"reducing T from 2.0 down to 1.0 produces only minor changes": change of the mean curvature': partial(
        _change, before="PLD, T = 2", after=PLD
    ),
    '"further lowering T below 1.0 flattens the curvature": slices where T = 0.5 has less of it than T = 1': partial(
        _flatter, name="PLD, T = 0.5"
    ),
    "the same for T = 0.1": partial(_flatter, name="PLD, T = 0.1"),
    "the same: change of the mean curvature from T = 1 to 0.1": partial(_change, before=PLD, after="PLD, T = 0.1"),
}
