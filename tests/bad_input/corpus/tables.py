"""What lies beside grids as text: the paper's printed tables, and claims about them."""

from front_door import Case

GRID = """\
cells: {teacher: ResNet-152, student: ResNet-50, loss: [kd, pld]}
table:
  rows: [loss]
  paper: mine
  columns:
    - {header: Loss, axis: loss}
    - {header: Top-1, metric: top1}
"""
PRINTED = "Loss,Top-1\nkd,71.1\npld,71.5\n"
CLAIMS = """\
tables: {mine: [Loss]}
claims:
  - id: a
    place: section 5
    text: KD learns
    greater: "0"
    quantity: {table: mine, column: Top-1, rows: {Loss: kd}}
"""


def printed(csv: str | bytes | None, said: str) -> Case:
    table = {} if csv is None else {"reports/paper/mine.csv": csv}
    files = {"grid.yaml": GRID, "reports/paper/README.md": "", **table}
    return Case(("run", "grid.yaml"), said, files)


def claims(old: str, new: str, said: str) -> Case:
    assert old in CLAIMS
    files = {"grid.yaml": GRID, "reports/paper/mine.csv": PRINTED}
    files["reports/paper/claims.yaml"] = CLAIMS.replace(old, new, 1)
    return Case(("report", "grid.yaml"), f"reports/paper/claims.yaml{said}", files)


CASES = {
    "missing": printed(None, "reports/paper/mine.csv: the paper's table cannot be read: No such file"),
    "empty": printed("", "reports/paper/mine.csv: empty"),
    "no column of ours": printed(
        "Lss,Top-1\nkd,1\n", 'no column "Loss", which our table has; the paper has: Lss, Top-1'
    ),
    "ragged": printed("Loss,Top-1\nkd\n", "mine.csv:2: 1 fields, the header has 2"),
    "open quote": printed('Loss,Top-1\n"kd,1\n', "mine.csv:2: 1 fields, the header has 2"),
    "word for a number": printed("Loss,Top-1\nkd,high\n", 'mine.csv:2: Top-1: "high" is no number'),
    "not a number": printed("Loss,Top-1\nkd,nan\n", 'mine.csv:2: Top-1: "nan" is no number'),
    "infinite": printed("Loss,Top-1\nkd,inf\n", 'mine.csv:2: Top-1: "inf" is no number'),
    "hexadecimal": printed("Loss,Top-1\nkd,0x10\n", 'mine.csv:2: Top-1: "0x10" is no number'),
    "space before a number": printed("Loss,Top-1\nkd, 71\n", 'mine.csv:2: Top-1: " 71" is no number'),
    "row twice": printed("Loss,Top-1\nkd,1\nkd,2\n", "mine.csv:3: the row Loss=kd is there twice"),
    "column twice": printed("Loss,Top-1,Top-1\nkd,1,2\n", "mine.csv: two columns have the same header"),
    "deviation of nothing": printed("Loss,Top-1,X std\nkd,1,2\n", '"X std" is the standard deviation of no column'),
    "negative deviation": printed("Loss,Top-1,Top-1 std\nkd,1,-2\n", 'mine.csv:2: Top-1 std: "-2" is negative'),
    "deviation alone": printed("Loss,Top-1,Top-1 std\nkd,,2\n", 'Top-1 std: "2" has no figure beside it'),
    "row that we lack": printed(PRINTED + "dist,1\n", "grid.yaml:4: table.paper: row Loss=dist of | has no partner in"),
    "row that the paper lacks": printed(
        "Loss,Top-1\nkd,1\n", "grid.yaml:4: table.paper: row Loss=pld of table grid has"
    ),
    "null byte": printed("Loss,Top-1\nk\0d,1\n", r"table.paper: row Loss=k\x00d of | has no partner"),
    "not UTF-8": printed(b"Loss,Top-1\n\xff,1\n", "mine.csv: not a CSV file: "),
    "endless field": printed("Loss,Top-1\n" + "x" * 200_000 + ",1\n", "mine.csv: not a CSV file: field larger than"),
    "column called as a part of another": Case(
        ("plan", "grid.yaml"),
        'table grid: two columns of its CSV would be called "Top-1 std"; rename one',
        {"grid.yaml": GRID.replace("mine", "null") + "    - {header: Top-1 std, metric: top5}\n"},
    ),
    "claims: empty": claims(CLAIMS, "", ":1: the file is empty"),
    "claims: unknown key": claims(
        "greater:", "grater:", ':6: claims[0].grater: unknown key "grater"; | (did you mean "greater"?)'
    ),
    "claims: unknown table": claims("table: mine", "table: mnie", ":7: claims[0].quantity.table: "),
    "claims: unknown column": claims("Top-1", "Top-2", ":7: claims[0].quantity.column: "),
    "claims: unknown row": claims("Loss: kd", "Loss: kdd", ":7: claims[0].quantity.rows.Loss: "),
    "claims: path for a table": claims("mine:", '"../../mine":', ":1: tables.../../mine: "),
    "claims: text for a number": claims(
        'greater: "0"', "greater: many", ':6: claims[0].greater: "many" is no decimal number'
    ),
    "claims: two subjects": claims(
        "    quantity:",
        "    each: {table: mine, column: Top-1}\n    quantity:",
        ":3: claims[0]: a claim needs exactly one",
    ),
    "claims: no place": claims("    place: section 5\n", "", ':3: claims[0]: missing key "place"'),
    "claims: id": claims("id: a", "id: ../a", ":3: claims[0].id: must match"),
}
