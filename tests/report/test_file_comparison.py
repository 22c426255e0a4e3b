"""Test each way in which a folder can differ from the expected files."""

import io
from pathlib import Path

import pytest
from PIL import Image

from pld_grid.report.file_comparison import FileDifference, compare_folder
from pld_grid.util.errors import InputError


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


def test_equal_folder_has_no_differences(folder):
    (folder / ".table01.csv.x1").write_text("half")
    assert compare_folder(folder, FILES) == []


@pytest.mark.parametrize(
    ("name", "data", "detail"),
    [
        ("table01.csv", b"a,b\n1,2.6\n3,4\n", 'line 2: "1,2.6", expected "1,2.5"'),
        ("table01.csv", b"a,b\n1,2.5\n", 'line 3: "", expected "3,4"'),
        ("table01.csv", b"a,b\n1,2.5\n3,4", "2 lines, expected 3"),
        ("table01.csv", b"a,b\r\n1,2.5\n3,4\n", 'line 1: "a,b\r", expected "a,b"'),
        ("table01.csv", b"\xff\xfe", "2 bytes, expected 14"),
        ("figures/curve.svg", b"<svg></svg>\n", 'line 1: "<svg></svg>", expected "<svg/>"'),
        ("figures/curve.png", png("white", (5, 3)), "5x3 pixels, expected 4x3"),
        ("figures/curve.png", b"no picture", "not a PNG picture"),
    ],
)
def test_changed_file_differs(folder, name, data, detail):
    (folder / name).write_bytes(data)
    assert compare_folder(folder, FILES) == [FileDifference(name, "differs", detail)]


def test_long_line_is_quoted_around_the_difference(folder):
    (folder / "index.html").write_bytes(FILES["index.html"].replace(b"77.15", b"77.25"))
    (differences,) = compare_folder(folder, FILES)
    assert differences.name == "index.html"
    assert "77.25" in differences.detail
    assert "77.15" in differences.detail
    assert len(differences.detail) < 250


def test_png_is_compared_by_pixels(folder):
    packed = png("white", level=0)
    assert packed != FILES["figures/curve.png"]
    (folder / "figures" / "curve.png").write_bytes(packed)
    assert compare_folder(folder, FILES) == []
    with Image.open(io.BytesIO(packed)) as picture:
        picture.putpixel((2, 1), (255, 255, 254))
        picture.save(folder / "figures" / "curve.png")
    assert compare_folder(folder, FILES) == [
        FileDifference("figures/curve.png", "differs", "pixels differ between (2, 1) and (3, 2)")
    ]


def test_missing_and_extra_files_are_listed(folder):
    (folder / "table01.csv").unlink()
    (folder / "table99.csv").write_text("1\n")
    differences = compare_folder(folder, FILES)
    assert [str(each) for each in differences] == ["table01.csv: missing", "table99.csv: extra"]


def test_missing_folder_is_input_error(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        compare_folder(tmp_path / "nothing", FILES)
