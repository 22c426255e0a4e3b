"""The drawing of loss landscapes, from arrays alone."""

import csv
import io
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from pld_grid.report.figures import Figure
from pld_grid.report.figures.landscape import Landscape, landscape_figure

STEPS = np.linspace(-5, 5, 21)
ALPHA, BETA = np.meshgrid(STEPS, STEPS)


def bowl(name: str, depth: float = 1.0, steps: np.ndarray = STEPS) -> Landscape:
    """`depth` * ((alpha - 1)^2 + beta^2 / 2) + 7."""
    alpha, beta = np.meshgrid(steps, steps)
    return Landscape(name, steps, depth * ((alpha - 1) ** 2 + beta**2 / 2) + 7, (1.0, 0.0), 7.0)


def drawn(*landscapes: Landscape, shared: bool = False) -> Figure:
    return landscape_figure("bowls", "Bowls", "Some bowls.", "Bowls.", landscapes, shared=shared)


def share_of(colour: tuple[float, ...], png: bytes, part: slice) -> float:
    """How much of the columns in `part` (in percent of the width) of a picture has just this colour."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    width = pixels.shape[1]
    within = pixels[:, width * part.start // 100 : width * part.stop // 100]
    # The surface and the colour bars are elsewhere: the contours fill the rows below the middle.
    within = within[len(within) // 2 : len(within) * 3 // 4]
    wanted = np.round(255 * np.array(colour[:3]))
    return float((np.abs(within - wanted).max(axis=2) <= 2).mean())


def test_equal_landscapes_make_equal_files_and_others_do_not() -> None:
    first, again = drawn(bowl("one"), bowl("two")), drawn(bowl("one"), bowl("two"))
    assert first.files == again.files
    moved = Landscape("two", STEPS, bowl("two").values, (1.5, 0.0), 7.0)
    other = drawn(bowl("one"), moved)
    assert other.svg != first.svg
    assert other.png != first.png
    assert other.csv == first.csv


def test_the_files_are_what_they_are_called() -> None:
    figure = drawn(bowl("one"), bowl("two"))
    assert list(figure.files) == ["bowls.svg", "bowls.png", "bowls.csv"]
    assert ElementTree.fromstring(figure.svg).tag == "{http://www.w3.org/2000/svg}svg"
    width, height = Image.open(io.BytesIO(figure.png)).size
    assert width > 700
    assert height > 700


def test_the_csv_holds_losses_not_heights_and_says_where() -> None:
    rows = list(csv.reader(io.StringIO(drawn(bowl("one"), bowl("two", 3.0)).csv)))
    assert rows[0] == ["alpha", "beta", "one", "two"]
    numbers = np.array(rows[1:], dtype=float)
    alpha, beta, one, two = numbers.T
    assert len(numbers) == len(STEPS) ** 2
    np.testing.assert_allclose(one, (alpha - 1) ** 2 + beta**2 / 2 + 7, rtol=1e-11)
    np.testing.assert_allclose(two, 3 * (one - 7) + 7, rtol=1e-11)


def test_a_figure_of_four_fine_landscapes_stays_small() -> None:
    steps = np.linspace(-5, 5, 81)
    figure = drawn(*(bowl(name, steps=steps) for name in "abcd"), shared=True)
    assert len(figure.svg) < 500_000


@pytest.mark.parametrize("shared", [False, True])
def test_a_shared_scale_shows_a_shallow_bowl_as_shallow(shared: bool) -> None:
    figure = drawn(bowl("deep"), bowl("shallow", 0.01), shared=shared)
    # Nine levels, the lowest one in the colour of its middle.
    lowest = mpl.colormaps["cividis"](1 / 18)
    deep = share_of(lowest, figure.png, slice(0, 50))
    shallow = share_of(lowest, figure.png, slice(50, 100))
    assert 0.15 < deep < 0.35
    if shared:
        # It lies wholly below the deep one's first contour.
        assert shallow > 0.6
    else:
        assert abs(shallow - deep) < 0.02


def test_drawing_leaves_matplotlibs_settings_alone() -> None:
    before = dict(mpl.rcParams)
    drawn(bowl("one"))
    assert dict(mpl.rcParams) == before
