"""Random and hostile text, cells and receipts give data, None, or a one-line error, in bounded time and memory."""

import json
import random
import tracemalloc
from collections.abc import Callable

import pytest
from cells import make_cell, make_distilled, make_receipt
from cli_process import isolated, run_python
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT

from pld_grid.experiment.cell import Cell
from pld_grid.experiment.grid import expand
from pld_grid.experiment.profile import load_profile
from pld_grid.store import Manifest, Mirror, Receipt, Status, Store, sha256
from pld_grid.util.errors import InputError
from pld_grid.util.strict_yaml import MAX_BYTES, read_file, read_text

GRIDS = sorted((ROOT / "grids").glob("*.yaml"))
PROFILES = sorted((ROOT / "grids" / "profiles").glob("*.yaml"))
# Fragments with a meaning in YAML, JSON and file systems.
PIECES = [
    *"{}[]:,|>'\"\\%#\n\t~\0\x85\u2028\ufeffé😀0",
    *("- ", "? ", "&a ", "*a", "!!int ", "!x ", "\\U00110000", "<<", "---\n", "...\n", "true", "null", "../../x"),
    *(".nan", "-1", "1e999", "9" * 400, "x" * 3000, "[" * 50, "seed", "loss", "kd", "table"),
]
mutations = st.lists(
    st.tuples(
        st.sampled_from(["insert", "replace", "cut", "copy"]), st.floats(0, 1), st.floats(0, 1), st.sampled_from(PIECES)
    ),
    min_size=1,
    max_size=4,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)


def mutated(text: str, changes: list[tuple[str, float, float, str]]) -> str:
    for kind, first, second, piece in changes:
        at, length = int(first * len(text)), int(second * 40)
        rest = text[at + length :]
        if kind == "insert":
            text = text[:at] + piece + text[at:]
        elif kind == "replace":
            text = text[:at] + piece + rest
        elif kind == "cut":
            text = text[:at] + rest
        else:
            text = text[: at + length] + text[at:]
    return text


def reads_or_fails_in_one_line(read: Callable[[], object]) -> None:
    """Fail unless reading succeeds or raises a one-line InputError."""
    try:
        read()
    except InputError as error:
        assert str(error).isprintable()
        assert str(error).startswith("f.yaml:")


# -- YAML --------------------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=300).map(lambda raw: raw.decode("utf-8", "replace")),
        st.lists(st.sampled_from(PIECES)).map("".join),
    )
)
def test_read_text_of_any_text(text):
    def read() -> None:
        assert isinstance(read_text(text, "f.yaml").data, dict)

    reads_or_fails_in_one_line(read)


@settings(max_examples=100)
@given(source=st.sampled_from(GRIDS), changes=mutations)
def test_expand_of_a_mutated_grid(profile, source, changes):
    text = mutated(source.read_text(), changes)
    reads_or_fails_in_one_line(lambda: expand(read_text(text, "f.yaml"), "f", profile("digits")))


@settings(max_examples=100)
@given(source=st.sampled_from(PROFILES), changes=mutations)
def test_load_profile_of_a_mutated_profile(registry, tmp_path_factory, source, changes):
    path = tmp_path_factory.getbasetemp() / "f.yaml"
    path.write_bytes(mutated(source.read_text(), changes).encode())

    def load() -> None:
        try:
            load_profile(path, registry)
        except InputError as error:
            raise InputError(str(error).replace(str(path), "f.yaml")) from None

    reads_or_fails_in_one_line(load)


@settings(max_examples=200)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 30))
def test_read_file_of_any_bytes(tmp_path_factory, seed, count):
    draws, path = random.Random(seed), tmp_path_factory.getbasetemp() / "g.yaml"
    raw = bytearray(GRIDS[seed % len(GRIDS)].read_bytes())
    for _ in range(count):
        raw[draws.randrange(len(raw))] = draws.randrange(256)
    path.write_bytes(raw)
    try:
        read_file(path)
    except InputError as error:
        assert str(error).isprintable()


# Files of the maximum size with content that is slow to parse.
LARGEST = MAX_BYTES - 100
EXTREMES = {
    "numbers": "'a: [' + '1,' * (N // 2) + '1]'",
    "empty mappings": "'a: [' + '{},' * (N // 3) + ']'",
    "keys": "''.join(f'k{i:x}:\\n' for i in range(N // 8))",
    "quoted": "'a: \"' + '\\\\x41' * (N // 4) + '\"'",
    "quoted lines": "'a: \"' + 'x\\n' * (N // 2) + '\"'",
    "plain": "'a: ' + 'x ' * (N // 2)",
    "block": "'a: |\\n' + ' x\\n' * (N // 3)",
    "digits": "'a: ' + '1' * N + 'x'",
    "exponents": "'a: ' + '1e' * (N // 2)",
    "anchors": "'a: [' + ','.join(f'&a{i} b' for i in range(N // 10)) + ']'",
    "open": "'[' * N",
    "dashes": "'- ' * (N // 2)",
    "key candidates": "'{' + 'a\\n' * (N // 2) + '}'",
    "blank lines": "'\\n' * N + 'a: 1'",
    "losses": "'cells: {student: ResNet-50, loss: [' + 'ce, ' * (N // 4) + ']}'",
    "wrong seeds": "'cells: {student: ResNet-50, loss: ce, seed: [' + 'x, ' * (N // 3) + ']}'",
    "wrong cells": "'cells: [' + 'x, ' * (N // 3) + ']'",
    "unknown keys": "'cells: {' + ', '.join(f'k{i}: 1' for i in range(N // 12)) + '}'",
    "exclusions": "'cells: {student: ResNet-50, loss: ce, seed: [0, 1]}\\nexclude:\\n' + '- {seed: 0}\\n' * (N // 12)",
    "rows": "'cells: {student: ResNet-50, loss: ce}\\ntable: {rows: [' + 'loss, ' * (N // 6) + ']}'",
}
LIMITED = """
import resource, sys
from pld_grid.service import loading
from pld_grid.util.errors import InputError
from pld_grid.experiment.grid import expand
from pld_grid.util.strict_yaml import read_text
profile = loading.load_profile("digits")
used = resource.getrusage(resource.RUSAGE_SELF)
seconds = int(used.ru_utime + used.ru_stime) + 60
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**29, held + 2**29))
N = int(sys.argv[1])
for text in sys.argv[2:]:
    try:
        expand(read_text(eval(text), "f.yaml"), "f", profile)
    except InputError as error:
        assert str(error).isprintable()
    print("read", flush=True)
"""


@pytest.mark.parametrize("part", range(3))
def test_largest_files_take_bounded_time_and_memory(tmp_path, part):
    """The kernel limits each part to half a GiB of additional memory and a minute of CPU time."""
    texts = list(EXTREMES.values())[part::3]
    read = run_python(LIMITED, str(LARGEST), *texts, folder=ROOT, **isolated(tmp_path))
    assert read == "read\n" * len(texts), texts


BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(9 * [f'*{a}'])}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
ONES = ", ".join("1" * 1000)
TRILLION = (
    f"cells: {{student: ResNet-50, loss: ce, seed: [{ONES}], epochs: [{ONES}], "
    f"teacher: [{', '.join(['ResNet-50'] * 1000)}], optimizer: [{', '.join(['lamb'] * 1000)}]}}\n"
)


@pytest.mark.parametrize(("text", "message"), [(BOMB, "YAML aliases"), (TRILLION, "expands to 1000000000000 cells")])
def test_exponential_inputs_are_rejected_before_expansion(grid, text, message):
    grid("cells: {student: ResNet-50, teacher: ResNet-50, loss: ce}")  # what is loaded once
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message):
            grid(text)
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()


# -- cells -------------------------------------------------------------------------------------------------------------

CELL = make_distilled()
CELL_ID = CELL.cell_id
CELL_TEXT = CELL.model_dump_json()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def read_cell(store: Store, data: bytes) -> Cell | None:
    store.write(data, CELL_ID, "cell.json", durable=False)
    return store.cell(CELL_ID)


def test_unchanged_cell_is_read(store):
    assert read_cell(store, CELL_TEXT.encode()) == CELL


@settings(max_examples=200)
@given(data=st.one_of(st.binary(max_size=200), json_values.map(lambda v: json.dumps(v).encode())))
def test_any_bytes_as_cell_are_none(store, data):
    assert read_cell(store, data) is None


@settings(max_examples=300)
@given(changes=mutations)
def test_mutated_cell_is_none_or_unchanged(store, changes):
    assert read_cell(store, mutated(CELL_TEXT, changes).encode()) in (None, CELL)


@given(place=st.sampled_from(sorted(json.loads(CELL_TEXT))), value=json_values)
def test_cell_with_another_value_is_none_or_unchanged(store, place, value):
    changed = json.dumps(json.loads(CELL_TEXT) | {place: value})
    assert read_cell(store, changed.encode()) in (None, CELL)


@pytest.mark.parametrize("depth", [1, 10, 100, 180, 200, 1000, 100_000])
def test_deeply_nested_cells_are_none(store, depth):
    """Teachers of teachers, and options in options: whatever the depth, no more than None comes of it."""
    before, after = json.dumps(json.loads(CELL_TEXT) | {"teacher": "@"}).split('"@"')
    assert read_cell(store, (before * min(depth, 2000) + CELL_TEXT + after * min(depth, 2000)).encode()) is None
    options = make_cell().model_dump_json().replace('"options":{}', f'"options":{{"a":{"[" * depth}{"]" * depth}}}', 1)
    assert read_cell(store, options.encode()) is None


@pytest.mark.parametrize("number", ["9" * 4000, "9" * 5000, "1e999", "-0", "NaN", "1" + "0" * 10**6])
def test_cell_with_extreme_numbers_is_none_or_unchanged(store, number):
    for place in ('"seed":', '"epochs":', '"learning_rate":', '"image_size":'):
        assert place in CELL_TEXT
        head, _, tail = CELL_TEXT.partition(place)
        digits = len(tail) - len(tail.lstrip("0123456789."))
        assert read_cell(store, f"{head}{place}{number}{tail[digits:]}".encode()) in (None, CELL)


# -- receipts ----------------------------------------------------------------------------------------------------------

RECEIPT = make_receipt(CELL)


@pytest.fixture(scope="module")
def receipt_bytes(store: Store) -> bytes:
    store.write_receipt(RECEIPT)
    return store.read(CELL_ID, "receipt.json")


def add_checksum(body: bytes) -> bytes:
    """Any bytes with the checksum that `Store.write_model` gives to what it writes."""
    return f'{{"sha256":"{sha256(body)}","content":'.encode() + body + b"}\n"


def read_receipt(store: Store, data: bytes) -> Receipt | None:
    """Read a receipt in all ways; none of them may raise."""
    store.write(data, CELL_ID, "receipt.json", durable=False)
    receipt = store.receipt(CELL_ID)
    store.write(data, CELL_ID, "receipt.json", durable=False)
    record = store.report_record(CELL_ID)
    assert (record is None) == (receipt is None)
    return receipt


def test_unchanged_receipt_is_read(store, receipt_bytes):
    assert read_receipt(store, receipt_bytes) == RECEIPT
    body = receipt_bytes.partition(b'"content":')[2][:-2]
    assert add_checksum(body) == receipt_bytes


@settings(max_examples=200)
@given(bit=st.floats(0, 1, exclude_max=True))
def test_receipt_with_a_flipped_bit_is_none(store, receipt_bytes, bit):
    flipped, place = bytearray(receipt_bytes), int(bit * 8 * len(receipt_bytes))
    flipped[place // 8] ^= 1 << place % 8
    assert read_receipt(store, bytes(flipped)) is None


@given(data=st.binary(max_size=300))
def test_any_bytes_as_receipt_are_none(store, data):
    assert read_receipt(store, data) is None
    assert read_receipt(store, add_checksum(data)) is None


@settings(max_examples=200)
@given(value=json_values)
def test_other_json_with_valid_checksum_is_none(store, value):
    data = add_checksum(json.dumps(value).encode())
    assert read_receipt(store, data) is None
    for model in (Receipt, Status, Mirror, Manifest):
        store.write(data, CELL_ID, "other.json", durable=False)
        assert store.read_model(model, CELL_ID, "other.json") is None


@settings(max_examples=200)
@given(changes=mutations)
def test_forged_receipt_is_none_or_of_its_cell(store, receipt_bytes, changes):
    body = receipt_bytes.partition(b'"content":')[2][:-2].decode()
    receipt = read_receipt(store, add_checksum(mutated(body, changes).encode()))
    assert receipt is None or receipt.cell == CELL


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b'"' + b"x" * 10**6 + b'"', b"\xff", b""]
)
def test_extremes_with_valid_checksum_are_none(store, body):
    assert read_receipt(store, add_checksum(body)) is None
