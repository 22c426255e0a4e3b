"""claims.yaml: what it may say, and one line for whatever it may not."""

import shutil
from fractions import Fraction
from pathlib import Path

import pytest
from synthetic import PAPER

from pld_grid.errors import InputError
from pld_grid.report.claims import read_claims

HEAD = "tables:\n  table02: [Variant, tau]\n  table03: [Student, Teacher]\nclaims:\n"
MEAN = "quantity: {mean: {table: table03, column: Delta_KD}}"
GREATER = 'greater: "0"'


def claim(*lines: str, name: str = "one") -> str:
    """A claim of three lines, from line 5 of the file, and these from line 8."""
    return "\n".join([f"  - id: {name}", "    place: here", "    text: so", *(f"    {line}" for line in lines), ""])


def write(folder: Path, text: str) -> Path:
    for table in ("table02.csv", "table03.csv"):
        shutil.copy(PAPER / table, folder)
    (folder / "claims.yaml").write_text(text)
    return folder / "claims.yaml"


def cells(column: str, rows: str = "{}", table: str = "table03") -> str:
    return f"{{table: {table}, column: {column}, rows: {rows}}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            claim(MEAN, "about: 0.7"),
            'claims.yaml:9: claims[0].about: write the number in quotes, "0.7", with the digits',
        ),
        (claim(MEAN, 'about: "1e9"'), 'claims.yaml:9: claims[0].about: "1e9" is no decimal number like "0.42"'),
        (claim(MEAN, 'greater: "inf"'), 'claims.yaml:9: claims[0].greater: "inf" is no decimal number'),
        (claim(MEAN, "less: true"), "claims.yaml:9: claims[0].less: expected text, not true"),
        (
            claim(MEAN),
            "claims.yaml:5: claims[0]: a claim needs exactly one of greater, less, about, between; it has none",
        ),
        (
            claim(MEAN, GREATER, 'less: "1"'),
            "claims[0]: a claim needs exactly one of greater, less, about, between; it",
        ),
        (claim(MEAN, 'between: ["3", "2"]'), "claims[0]: between 3 and 2 there is nothing"),
        (claim(MEAN, GREATER, 'margin: "1"'), 'claims[0]: a margin belongs to "about", and is not negative'),
        (claim(MEAN, 'about: "0"', 'margin: "-1"'), 'claims[0]: a margin belongs to "about", and is not negative'),
        (claim(GREATER), "claims[0]: a claim needs exactly one of quantity, each, some; it has none"),
        (
            claim(MEAN, f"each: {cells('KD')}", GREATER),
            "claims[0]: a claim needs exactly one of quantity, each, some; it has quantity and each",
        ),
        (claim(MEAN, GREATER, "because: x"), 'claims.yaml:10: claims[0].because: unknown key "because"; valid: about,'),
        (
            claim("quantity: {mean: {table: table3, column: KD}}", GREATER),
            'claims.yaml:8: claims[0].quantity.mean.table: unknown table "table3"; valid: table02, table03 (did you',
        ),
        (
            claim("quantity:", "  mean:", "    table: table03", "    column: Delta_K", GREATER),
            'claims.yaml:11: claims[0].quantity.mean.column: table03 has no column "Delta_K"; valid: DIST, ',
        ),
        (
            claim(f"quantity: {{mean: {cells('KD', '{Students: ResNet-50}')}}}", GREATER),
            '.rows.Students: "Students" is no key column of table03; valid: Student, Teacher (did you mean "Student"?)',
        ),
        (
            claim(f"each: {cells('KD', '{Student: [ViT-Small, ResNet50]}')}", GREATER),
            'claims[0].each.rows.Student[1]: table03 has no row with Student "ResNet50"; valid: MobileNet-v4 Hybrid',
        ),
        (
            claim(f"each: {cells('KD', '{Student: ResNet-50, Teacher: ViT-Large}')}", GREATER),
            "claims[0].each.rows: table03 has no row Student=ResNet-50, Teacher=ViT-Large",
        ),
        (
            claim(f"each: {cells('KD', '{Student: [ResNet-50, ResNet-50]}')}", GREATER),
            "claims[0].each: rows names a text twice",
        ),
        (
            claim(f"each: {cells('Student')}", GREATER),
            'claims[0].each.column: table03 prints "ViT-Small", which is no number in the row Student=ViT-Small',
        ),
        (
            claim(f"quantity: {cells('tau', '{Variant: PLD-ListMLE}', 'table02')}", GREATER),
            'claims[0].quantity.column: table02 prints nothing in the row Variant=PLD-ListMLE, column "tau"',
        ),
        (
            claim(f"each: {cells('Top-1', '{tau: 1.00}', 'table02')}", GREATER),
            "claims.yaml:8: claims[0].each.rows.tau: expected text, not 1.0",
        ),
        (claim(f"each: {cells('KD', '{Student: []}')}", GREATER), "claims[0].each.rows.Student: must not be empty"),
        (
            claim(f"quantity: {cells('KD')}", GREATER),
            "claims[0].quantity: is 5 numbers: take their mean, or write each or some",
        ),
        (
            claim(f"each: {{minus: [{cells('Top-1', table='table02')}, {cells('KD')}]}}", GREATER),
            "claims[0].each: minus pairs 7 numbers with 5",
        ),
        (
            claim(f"quantity: {{trend: [{{mean: {cells('KD')}}}, {{mean: {cells('PLD')}}}]}}", GREATER),
            "claims[0].quantity: a trend needs two or more numbers over as many, not 1 over 1",
        ),
        (
            claim(f"each: {{ratio: [{cells('KD')}, {{minus: [{cells('KD')}, {cells('KD')}]}}]}}", GREATER),
            "claims[0].each: divides by zero in the paper's own tables",
        ),
        (
            claim("quantity: {means: {}}", GREATER),
            'claims[0].quantity.means: unknown key "means"; valid: column, mean, ',
        ),
        (
            claim("quantity: {mean: {table: table03}}", GREATER),
            "claims[0].quantity.mean: table and column belong together",
        ),
        (
            claim("quantity: {mean: null}", GREATER),
            "claims[0].quantity: a quantity needs exactly one of table, mean, ",
        ),
        (
            claim(f"quantity: {{mean: {cells('KD')}, trend: [{cells('KD')}, {cells('KD')}]}}", GREATER),
            "claims[0].quantity: a quantity needs exactly one of table, mean, minus, ratio, trend; it has mean and",
        ),
        (claim(f"each: {{minus: [{cells('KD')}]}}", GREATER), "claims[0].each.minus: value 2 is missing"),
        (
            claim("quantity: {mean: {mean: {table: table03, column: KD}, rows: {Student: ViT-Small}}}", GREATER),
            "claims[0].quantity.mean: only a table has rows",
        ),
        (
            claim(MEAN, GREATER) + claim(MEAN, GREATER),
            'claims.yaml:10: claims[1].id: two claims are called "one"',
        ),
        (claim(MEAN, GREATER, name="One Two"), "claims.yaml:5: claims[0].id: must match "),
        (claim(f"quantity: {'{mean: ' * 30}{cells('KD')}{'}' * 30}", GREATER), "nested more than 20 levels deep"),
        (claim(MEAN, GREATER, GREATER), 'claims.yaml:10: claims[0].greater: duplicate key "greater", first on line 9'),
    ],
)
def test_a_mistake_gets_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_claims(write(tmp_path, HEAD + text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("table02: [Variant, tau]", '"../table02": [tau]', '"../table02" is no plain name'),
        ("table02: [Variant, tau]", "table02: [Variant]", "table02.csv:3: the row Variant=PLD is there twice"),
        ("table02: [Variant, tau]", "table02: [Kind]", 'table02.csv: no column "Kind"'),
        ("table02: [Variant, tau]", "table99: [tau]", "table99.csv: the paper's table cannot be read"),
        (
            "tables:",
            "table:",
            'claims.yaml:1: table: unknown key "table"; valid: claims, tables (did you mean "tables"?)',
        ),
    ],
)
def test_so_does_a_wrong_table(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_claims(write(tmp_path, HEAD.replace(old, new) + claim(MEAN, GREATER)))
    assert message in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
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
def test_a_printed_number_stands_for_what_rounds_to_it(
    relation: str, low: str, high: str, text: str, tmp_path: Path
) -> None:
    (found,) = read_claims(write(tmp_path, HEAD + claim(MEAN, relation)))
    region = found.region
    assert (region.low, region.high, region.text) == (Fraction(low), Fraction(high), text)
    assert region.accepts(Fraction(low)) and region.accepts(Fraction(high))
    below, above = Fraction(low) - Fraction(1, 10**9), Fraction(high) + Fraction(1, 10**9)
    assert not region.accepts(below) and not region.accepts(above)
    assert region.avoids(below - 1, below) and not region.avoids(below, Fraction(low))
    assert region.holds(Fraction(low), Fraction(high)) and not region.holds(Fraction(low), above)


def test_a_claim_says_how_it_is_read() -> None:
    said = {claim.id: claim.reading for claim in read_claims(PAPER / "claims.yaml")}
    assert said["heterogeneous-average-over-dist"] == "mean of (table04 Delta_DIST) = 0.48 ± 0.005"
    assert said["convolutional-over-kd"] == (
        "each table03 Delta_KD [Teacher=ResNet-152 or MobileNet-v4 Large (conv)] from 0.5 to 2.7"
    )
    assert said["capacity-trend-kd"] == "trend of table04 KD over table04 Teacher Params(M) < 0"
    assert said["epochs-advantage-over-ce"] == (
        "(table05 PLD [Epochs=300] - table05 CE [Epochs=300])"
        " - (table05 PLD [Epochs=100] - table05 CE [Epochs=100]) > 0"
    )
