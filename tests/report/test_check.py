"""Each way in which a folder can differ from the report that it should hold."""

import io
from pathlib import Path

import pytest
from PIL import Image

from pld_grid.errors import InputError
from pld_grid.report.check import Difference, check


def png(colour: str, size: tuple[int, int] = (4, 3), level: int = 6) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


FILES = {
    "table01.csv": b"a,b\n1,2.5\n3,4\n",
    "index.html": b"<p>" + b"x" * 500 + b"77.15" + b"y" * 500 + b"</p>\n",
    "figures/curve.svg": b"<svg/>\n",
    "figures/curve.png": png("white"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return tmp_path


def test_a_report_that_follows(folder: Path):
    (folder / ".table01.csv.x1").write_text("half")
    assert check(folder, FILES) == []


@pytest.mark.parametrize(
    ("name", "data", "detail"),
    [
        ("table01.csv", b"a,b\n1,2.6\n3,4\n", 'line 2: "1,2.6" does not follow, but "1,2.5"'),
        ("table01.csv", b"a,b\n1,2.5\n", 'line 3: "" does not follow, but "3,4"'),
        ("table01.csv", b"a,b\n1,2.5\n3,4", "2 lines, not the 3 that follow"),
        ("table01.csv", b"a,b\r\n1,2.5\n3,4\n", 'line 1: "a,b\r" does not follow, but "a,b"'),
        ("table01.csv", b"\xff\xfe", "2 bytes, not the 14 that follow"),
        ("figures/curve.svg", b"<svg></svg>\n", 'line 1: "<svg></svg>" does not follow, but "<svg/>"'),
        ("figures/curve.png", png("white", (5, 3)), "5x3 pixels, not 4x3"),
        ("figures/curve.png", b"no picture", "is no picture"),
    ],
)
def test_a_changed_file(folder: Path, name: str, data: bytes, detail: str):
    (folder / name).write_bytes(data)
    assert check(folder, FILES) == [Difference(name, "differs", detail)]


def test_a_long_line_is_shown_around_the_difference(folder: Path):
    (folder / "index.html").write_bytes(FILES["index.html"].replace(b"77.15", b"77.25"))
    (found,) = check(folder, FILES)
    assert found.name == "index.html"
    assert "77.25" in found.detail
    assert "77.15" in found.detail
    assert len(found.detail) < 250


def test_a_picture_counts_by_its_pixels(folder: Path):
    packed = png("white", level=0)
    assert packed != FILES["figures/curve.png"]
    (folder / "figures" / "curve.png").write_bytes(packed)
    assert check(folder, FILES) == []
    with Image.open(io.BytesIO(packed)) as picture:
        picture.putpixel((2, 1), (255, 255, 254))
        picture.save(folder / "figures" / "curve.png")
    assert check(folder, FILES) == [
        Difference("figures/curve.png", "differs", "pixels differ between (2, 1) and (3, 2)")
    ]


def test_missing_and_extra_files(folder: Path):
    (folder / "table01.csv").unlink()
    (folder / "table99.csv").write_text("1\n")
    found = check(folder, FILES)
    assert [str(each) for each in found] == ["table01.csv: missing", "table99.csv: extra"]


def test_a_folder_that_is_none(tmp_path: Path):
    with pytest.raises(InputError, match="there is no such folder"):
        check(tmp_path / "nothing", FILES)
