"""Figures of loss landscapes, drawn from arrays."""

import csv
import io
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from pld_grid.paper.landscapes.figure import Landscape, draw_landscapes

pytestmark = pytest.mark.slow

STEPS = np.linspace(-5, 5, 21)
ALPHA, BETA = np.meshgrid(STEPS, STEPS)


def make_bowl(name: str, depth: float = 1.0, steps: np.ndarray = STEPS) -> Landscape:
    """`depth` * ((alpha - 1)^2 + beta^2 / 2) + 7."""
    alpha, beta = np.meshgrid(steps, steps)
    return Landscape(name, steps, depth * ((alpha - 1) ** 2 + beta**2 / 2) + 7, (1.0, 0.0), 7.0)


def draw(*landscapes: Landscape, shared: bool = False) -> dict[str, bytes]:
    return draw_landscapes("bowls", landscapes, shared=shared)


def measure_share(colour: tuple[float, ...], png: bytes, part: slice) -> float:
    """Returns the share of pixels with a colour in the columns `part` (in percent of the width) of a picture."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    width = pixels.shape[1]
    columns = pixels[:, width * part.start // 100 : width * part.stop // 100]
    # The contour maps are in the third quarter of the rows.
    contours = columns[len(columns) // 2 : len(columns) * 3 // 4]
    return float((np.abs(contours - np.round(255 * np.array(colour[:3]))).max(axis=2) <= 2).mean())


def test_files_are_what_their_names_say():
    before = dict(mpl.rcParams)
    figure = draw(make_bowl("one"), make_bowl("two"))
    assert list(figure) == ["bowls.svg", "bowls.png", "bowls.csv"]
    assert ElementTree.fromstring(figure["bowls.svg"]).tag == "{http://www.w3.org/2000/svg}svg"
    assert min(Image.open(io.BytesIO(figure["bowls.png"])).size) > 700
    assert dict(mpl.rcParams) == before


def test_equal_landscapes_give_equal_files():
    first, again = draw(make_bowl("one"), make_bowl("two")), draw(make_bowl("one"), make_bowl("two"))
    assert first == again
    changed = Landscape("two", STEPS, make_bowl("two").values, (1.5, 0.0), 7.0)
    other = draw(make_bowl("one"), changed)
    assert [name for name in first if other[name] != first[name]] == ["bowls.svg", "bowls.png"]


def test_csv_contains_coordinates_and_losses():
    rows = list(csv.reader(io.StringIO(draw(make_bowl("one"), make_bowl("two", 3.0))["bowls.csv"].decode())))
    assert rows[0] == ["alpha", "beta", "one", "two"]
    numbers = np.array(rows[1:], dtype=float)
    alpha, beta, one, two = numbers.T
    assert len(numbers) == len(STEPS) ** 2
    np.testing.assert_allclose(one, (alpha - 1) ** 2 + beta**2 / 2 + 7, rtol=1e-11)
    np.testing.assert_allclose(two, 3 * (one - 7) + 7, rtol=1e-11)


def test_svg_of_four_fine_landscapes_is_small():
    steps = np.linspace(-5, 5, 81)
    figure = draw(*(make_bowl(name, steps=steps) for name in "abcd"), shared=True)
    assert len(figure["bowls.svg"]) < 500_000


@pytest.mark.parametrize("shared", [False, True])
def test_shared_scale_compares_the_heights_of_bowls(shared):
    figure = draw(make_bowl("deep"), make_bowl("shallow", 0.01), shared=shared)
    # Nine levels; the lowest has the colour of its middle.
    lowest = mpl.colormaps["cividis"](1 / 18)
    deep = measure_share(lowest, figure["bowls.png"], slice(0, 50))
    shallow = measure_share(lowest, figure["bowls.png"], slice(50, 100))
    assert 0.15 < deep < 0.35
    if shared:
        # It lies below the deep bowl's first contour.
        assert shallow > 0.6
    else:
        assert abs(shallow - deep) < 0.02
