"""The format of claims.yaml, and one line for each mistake in it."""

import shutil
from fractions import Fraction
from pathlib import Path

import pytest
from paper_records import PAPER

from pld_grid.report.claims.claims_file import read_claims
from pld_grid.util.errors import InputError

HEAD = "tables:\n  table02: [Variant, tau]\n  table03: [Student, Teacher]\nclaims:\n"
MEAN = "quantity: {mean: {table: table03, column: Delta_KD}}"
GREATER = 'greater: "0"'


def claim(*lines: str) -> str:
    """Return a claim: three lines, from line 5 of the file, and these from line 8."""
    return "\n".join(["  - id: one", "    place: here", "    text: so", *(f"    {line}" for line in lines), ""])


def write(folder: Path, text: str) -> Path:
    for table in ("table02.csv", "table03.csv"):
        shutil.copy(PAPER / table, folder)
    (folder / "claims.yaml").write_text(text)
    return folder / "claims.yaml"


def check_error(folder: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_claims(write(folder, text))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def cells(column: str, rows: str = "{}", table: str = "table03") -> str:
    return f"{{table: {table}, column: {column}, rows: {rows}}}"


NESTED = f"quantity: {'{mean: ' * 30}{cells('KD')}{'}' * 30}"
BY_ZERO = f"each: {{ratio: [{cells('KD')}, {{minus: [{cells('KD')}, {cells('KD')}]}}]}}"
LONG_AND_SHORT = f"each: {{minus: [{cells('Top-1', table='table02')}, {cells('KD')}]}}"
TWO_MEANS = f"quantity: {{trend: [{{mean: {cells('KD')}}}, {{mean: {cells('PLD')}}}]}}"
MEAN_AND_TREND = f"quantity: {{mean: {cells('KD')}, trend: [{cells('KD')}, {cells('KD')}]}}"
ROWS_OF_MEAN = "quantity: {mean: {mean: {table: table03, column: KD}, rows: {Student: ViT-Small}}}"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([MEAN, "about: 0.7"], 'claims.yaml:9: claims[0].about: write the number in quotes, "0.7", with the digits'),
        ([MEAN, 'about: "1e9"'], 'claims.yaml:9: claims[0].about: "1e9" is no decimal number like "0.42"'),
        ([MEAN, 'greater: "inf"'], 'claims.yaml:9: claims[0].greater: "inf" is no decimal number'),
        ([MEAN, "less: true"], "claims.yaml:9: claims[0].less: expected text, not true"),
        ([MEAN], "claims.yaml:5: claims[0]: a claim needs exactly one of greater, less, about, between; it has none"),
        ([MEAN, GREATER, 'less: "1"'], "exactly one of greater, less, about, between; it has greater and less"),
        ([MEAN, 'between: ["3", "2"]'], "claims[0]: between 3 and 2 there is nothing"),
        ([MEAN, GREATER, 'margin: "1"'], 'claims[0]: a margin belongs to "about", and is not negative'),
        ([MEAN, 'about: "0"', 'margin: "-1"'], 'claims[0]: a margin belongs to "about", and is not negative'),
        ([GREATER], "claims[0]: a claim needs exactly one of quantity, each, some; it has none"),
        ([MEAN, f"each: {cells('KD')}", GREATER], "exactly one of quantity, each, some; it has quantity and each"),
        ([MEAN, GREATER, "because: x"], 'claims.yaml:10: claims[0].because: unknown key "because"; valid: about,'),
        (["quantity: {table: table3, column: KD}", GREATER], '.table: unknown table "table3"; valid: table02, table03'),
        (
            ["quantity:", "  mean:", "    table: table03", "    column: Delta_K", GREATER],
            'claims.yaml:11: claims[0].quantity.mean.column: table03 has no column "Delta_K"; valid: DIST, ',
        ),
        (
            [f"quantity: {{mean: {cells('KD', '{Students: ResNet-50}')}}}", GREATER],
            '.rows.Students: "Students" is no key column of table03; valid: Student, Teacher (did you mean "Student"?)',
        ),
        (
            [f"each: {cells('KD', '{Student: [ViT-Small, ResNet50]}')}", GREATER],
            'claims[0].each.rows.Student[1]: table03 has no row with Student "ResNet50"; valid: MobileNet-v4 Hybrid',
        ),
        (
            [f"each: {cells('KD', '{Student: ResNet-50, Teacher: ViT-Large}')}", GREATER],
            "claims[0].each.rows: table03 has no row Student=ResNet-50, Teacher=ViT-Large",
        ),
        ([f"each: {cells('KD', '{Student: [ViT-Small, ViT-Small]}')}", GREATER], "each: rows names a text twice"),
        ([f"each: {cells('Student')}", GREATER], 'column: table03 prints "ViT-Small", which is no number in the row'),
        (
            [f"quantity: {cells('tau', '{Variant: PLD-ListMLE}', 'table02')}", GREATER],
            'claims[0].quantity.column: table02 prints nothing in the row Variant=PLD-ListMLE, column "tau"',
        ),
        ([f"each: {cells('KD', '{Student: 1.00}')}", GREATER], "each.rows.Student: expected text, not 1.0"),
        ([f"each: {cells('KD', '{Student: []}')}", GREATER], "claims[0].each.rows.Student: must not be empty"),
        ([f"quantity: {cells('KD')}", GREATER], "quantity: is 5 numbers: take their mean, or write each or some"),
        ([LONG_AND_SHORT, GREATER], "claims[0].each: minus pairs 7 numbers with 5"),
        ([TWO_MEANS, GREATER], "quantity: a trend needs two or more numbers over as many, not 1 over 1"),
        ([BY_ZERO, GREATER], "claims[0].each: divides by zero in the paper's own tables"),
        (["quantity: {means: {}}", GREATER], '.quantity.means: unknown key "means"; valid: column, mean, '),
        (["quantity: {mean: {table: table03}}", GREATER], "quantity.mean: table and column belong together"),
        (["quantity: {mean: null}", GREATER], "a quantity needs exactly one of table, mean, "),
        ([MEAN_AND_TREND, GREATER], "exactly one of table, mean, minus, ratio, trend; it has mean and trend"),
        ([f"each: {{minus: [{cells('KD')}]}}", GREATER], "claims[0].each.minus: value 2 is missing"),
        ([ROWS_OF_MEAN, GREATER], "claims[0].quantity.mean: only a table has rows"),
        ([NESTED, GREATER], "nested more than 20 levels deep"),
        ([MEAN, GREATER, GREATER], 'claims.yaml:10: claims[0].greater: duplicate key "greater", first on line 9'),
    ],
)
def test_read_claims_mistake_in_a_claim_raises_one_line(lines, message, tmp_path):
    check_error(tmp_path, HEAD + claim(*lines), message)


VALID = HEAD + claim(MEAN, GREATER)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (VALID + claim(MEAN, GREATER), 'claims.yaml:10: claims[1].id: two claims are called "one"'),
        (VALID.replace("id: one", "id: One Two"), "claims.yaml:5: claims[0].id: must match "),
        (VALID.replace("table02:", '"../table02":'), '"../table02" is no plain name'),
        (VALID.replace("Variant, tau", "Variant"), "table02.csv:3: the row Variant=PLD appears twice"),
        (VALID.replace("Variant, tau", "Kind"), 'table02.csv: no column "Kind"'),
        (VALID.replace("table02:", "table99:"), "table99.csv: the paper's table cannot be read"),
        (VALID.replace("tables:", "table:"), 'claims.yaml:1: table: unknown key "table"; valid: claims, tables (did'),
    ],
)
def test_read_claims_mistake_in_the_file_raises_one_line(text, message, tmp_path):
    check_error(tmp_path, text, message)


def test_read_claims_missing_file_raises(tmp_path):
    with pytest.raises(InputError, match=r"claims\.yaml: cannot be read: No such file"):
        read_claims(tmp_path / "claims.yaml")


@pytest.mark.parametrize(
    ("relation", "low", "high", "text"),
    [
        ('about: "0.42"', "0.415", "0.425", "= 0.42 ± 0.005"),
        ('about: "0.70"', "0.695", "0.705", "= 0.70 ± 0.005"),
        ('about: "-2"', "-2.5", "-1.5", "= -2 ± 0.5"),
        ('about: "0.825"', "0.8245", "0.8255", "= 0.825 ± 0.0005"),
        ('between: ["2", "3"]', "2", "3", "from 2 to 3"),
    ],
)
def test_region_printed_number_stands_for_what_rounds_to_it(relation, low, high, text, tmp_path):
    (parsed,) = read_claims(write(tmp_path, HEAD + claim(MEAN, relation))).claims
    region = parsed.region
    assert (region.low, region.high, region.text) == (Fraction(low), Fraction(high), text)
    assert region.contains(Fraction(low), Fraction(low)) and region.contains(Fraction(high), Fraction(high))
    below, above = Fraction(low) - Fraction(1, 10**9), Fraction(high) + Fraction(1, 10**9)
    assert not region.contains(below, below) and not region.contains(above, above)
    assert region.excludes(below - 1, below) and not region.excludes(below, Fraction(low))
    assert region.contains(Fraction(low), Fraction(high)) and not region.contains(Fraction(low), above)


def test_reading_is_the_parsedas_a_formula():
    readings = {claim.id: claim.reading for claim in read_claims(PAPER / "claims.yaml").claims}
    assert readings["heterogeneous-average-over-dist"] == "mean of (table04 Delta_DIST) = 0.48 ± 0.005"
    assert readings["convolutional-over-kd"] == (
        "each table03 Delta_KD [Teacher=ResNet-152 or MobileNet-v4 Large (conv)] from 0.5 to 2.7"
    )
    assert readings["capacity-trend-kd"] == "trend of table04 KD over table04 Teacher Params(M) < 0"
    assert readings["epochs-advantage-over-ce"] == (
        "(table05 PLD [Epochs=300] - table05 CE [Epochs=300])"
        " - (table05 PLD [Epochs=100] - table05 CE [Epochs=100]) > 0"
    )
