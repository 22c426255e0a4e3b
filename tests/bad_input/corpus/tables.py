"""The paper's printed tables, and claims about them."""

from error_cases import Case

from corpus import load_cases, plain

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


def printed(csv: str | bytes | None, message: str) -> Case:
    table = {} if csv is None else {"reports/paper/mine.csv": csv}
    files = {"grid.yaml": GRID, "reports/paper/README.md": "", **table}
    return Case(("run", "grid.yaml"), message, files)


def claims(old: str, new: str, message: str) -> Case:
    assert old in CLAIMS
    files = {"grid.yaml": GRID, "reports/paper/mine.csv": PRINTED}
    files["reports/paper/claims.yaml"] = CLAIMS.replace(old, new, 1)
    return Case(("report", "grid.yaml"), f"reports/paper/claims.yaml{message}", files)


CASES = load_cases(__file__, printed, plain, claims) | {
    "not UTF-8": printed(b"Loss,Top-1\n\xff,1\n", "mine.csv: not a CSV file: "),
    "huge field": printed("Loss,Top-1\n" + "x" * 200_000 + ",1\n", "mine.csv: not a CSV file: field larger than"),
}
