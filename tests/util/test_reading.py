import json
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pld_grid.experiment.cell import StrictModel
from pld_grid.util.errors import InputError
from pld_grid.util.strict_yaml import MAX_BYTES, MAX_DEPTH, Document, format_path, read_file, read_text
from pld_grid.util.text import one_line, show

texts = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=12)
keys = st.one_of(texts, st.integers(0, 10**9))
plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**17), 10**17),
        texts,
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


SCALARS = {
    **{"5e-3": 0.005, "2e-2": 0.02, "1e3": 1000.0, "1E+3": 1000.0, ".5": 0.5, "-1.": -1.0, "0.1": 0.1},
    **{"17": 17, "-3": -3, "007": 7, "true": True, "False": False, "null": None, "~": None, "": None},
    **{'"5e-3"': "5e-3", "'true'": "true", "|\n    5": "5\n"},
}
# YAML 1.1 reads the first ones as something else.
TEXTS = ("no", "on", "1:30", "0x10", "1_000", "2020-01-01", "nan", "inf", "1e5x", "1.2.3", "e5", "=")


@pytest.mark.parametrize(("text", "value"), [*SCALARS.items(), *zip(TEXTS, TEXTS, strict=True)])
def test_scalar_follows_the_core_schema(text, value):
    scalar = read_text(f"a: {text}\n").data["a"]
    assert scalar == value
    assert type(scalar) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_float_round_trips_through_its_repr(number):
    assert math.copysign(1, number) == math.copysign(1, read_text(f"a: {number!r}").data["a"])
    assert float(read_text(f"a: {number!r}").data["a"]) == number


@given(st.dictionaries(texts, plain, max_size=4))
def test_json_is_read_as_by_json(data):
    # JSON is YAML, but for control characters and escaped surrogates.
    text = json.dumps(data, ensure_ascii=False)
    read = read_text(text).data if data else {}
    assert read == json.loads(text)


@given(st.dictionaries(keys, plain, min_size=1, max_size=4))
def test_document_lines_are_those_of_the_keys(data):
    text = yaml.safe_dump(data, allow_unicode=True, default_flow_style=False, width=10_000)
    document = read_text(text)
    lines = text.splitlines() if "\x85" not in text else text.split("\n")
    starts = [document.lines[(key,)] for key in document.data]
    assert starts == sorted(set(starts))
    assert len(document.data) == len(data)
    assert all(1 <= line <= text.count("\n") + 1 for line in document.lines.values())
    assert all(lines[line - 1][:1] not in (" ", "-") for line in starts)


def test_nesting_deeper_than_the_limit_raises():
    depth = MAX_DEPTH - 1
    assert read_text("a: " + "[" * depth + "]" * depth).data
    with pytest.raises(InputError, match=f":1: .*nested more than {MAX_DEPTH} levels deep"):
        read_text("a: " + "[" * 100_000)


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 50 * MAX_BYTES])
def test_read_file_of_a_large_file_raises(tmp_path, size):
    path = tmp_path / "large.yaml"
    with open(path, "wb") as file:
        file.truncate(size)
    with pytest.raises(InputError, match=f"large.yaml: larger than {MAX_BYTES} bytes"):
        read_file(path)


def test_read_file_of_a_device_raises():
    with pytest.raises(InputError, match="/dev/zero: cannot be read: it is not a regular file"):
        read_file("/dev/zero")


@pytest.mark.parametrize("name", ["missing.yaml", "x\0y.yaml", ".", "n" * 5000, "new\nline.yaml"])
def test_read_file_of_an_unreadable_path_raises(tmp_path, name):
    with pytest.raises(InputError, match="cannot be read: ") as caught:
        read_file(f"{tmp_path}/{name}")
    assert str(caught.value).isprintable()


def test_read_file_of_bytes_that_are_no_text_raises(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(InputError, match=r"latin.yaml:2: not UTF-8 text"):
        read_file(path)


def test_read_file_accepts_a_byte_order_mark_and_windows_lines(tmp_path):
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: x\r\n")
    document = read_file(path)
    assert document.data == {"a": 1, "b": "x"}
    assert document.lines[("b",)] == 2


def test_error_names_file_line_and_path():
    document = read_text("a:\n  - b: 1\n  - c: [x, y]\n", "f.yaml")
    assert str(document.error(("a", 1, "c", 1), "wrong")) == "f.yaml:3: a[1].c[1]: wrong"
    assert str(document.error(("a", 5, "d"), "wrong")) == "f.yaml:1: a[5].d: wrong"
    assert str(document.error((), "wrong")) == "f.yaml:1: wrong"
    assert format_path(("a", 0, "b", "c", 2)) == "a[0].b.c[2]"


def test_locate_returns_the_longest_existing_path():
    document = read_text("a:\n  - b: 1\n  - c: [x, y]\n", "f.yaml")
    assert document.locate("a", 1, "c", value="y") == ("a", 1, "c", 1)
    assert document.locate("a", 1, "c", value="z") == ("a", 1, "c")
    assert document.locate("a", 1, "d", "e") == ("a", 1)
    assert document.locate("x") == ()


@given(st.text(max_size=3000))
def test_one_line_is_printable_and_short(text):
    line = one_line(text, 100)
    assert line.isprintable()
    assert len(line) <= 110
    if text.isprintable() and len(text) <= 100:
        assert line == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ("x", '"x"'),
        (1.5, "1.5"),
        ([1, "é"], '[1, "é"]'),
        ("x" * 99, '"' + "x" * 55 + " ..."),
    ],
)
def test_show_returns_yaml(value, text):
    assert show(value) == text


def test_unpaired_surrogate_raises():
    with pytest.raises(InputError, match=r"f.yaml:1: a: half a surrogate pair"):
        read_text('a: "\\ud800"', "f.yaml")


def test_parse_at_a_path_names_the_whole_path():
    class Part(StrictModel):
        size: int

    document: Document = read_text("a:\n  b:\n    size: x\n", "f.yaml")
    with pytest.raises(InputError, match=r"^f.yaml:3: a.b.size: .*not \"x\"$"):
        document.parse(Part, ("a", "b"))
    with pytest.raises(InputError, match=r'^f.yaml:2: a.b: unknown key "b"; valid: size$'):
        document.parse(Part, ("a",))
