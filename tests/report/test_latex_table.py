"""Test tables as LaTeX: complete, escaped, and compiled if there is a LaTeX engine."""

import re
import shutil
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paper_records import PAPER, TABLES, make_record, make_records, own_grid, table_grid

from pld_grid.experiment.profile import Profile
from pld_grid.report.latex_table import escape_latex, render_latex
from pld_grid.report.table import Table
from pld_grid.report.table_builder import build_table
from pld_grid.report.values import Value

Profiles = Callable[[str], Profile]
ENGINE = next(filter(shutil.which, ("pdflatex", "lualatex", "xelatex")), None)

# Everything that LaTeX, a line break before it, or a font's ligatures would make something else of.
HOSTILE = r"100 % of $x_i^2$ & {a} \input{b} ~c #d <e|f> [g] *h* ---i -- `j' \\ ?` !`"
GRID = f"""
cells: {{teacher: ResNet-152, student: [ResNet-50, ViT-Small/16], loss: [kd, pld], seed: [0, 1]}}
table:
  title: 'Table 3: {HOSTILE.replace("'", "''")} "k"'
  rows: [student]
  columns:
    - {{header: 'St & udent_', axis: student, names: {{ResNet-50: '[1em] * \\\\', ViT-Small/16: '% {{'}}}}
    - {{header: 'KD [%]', metric: top1, where: {{loss: kd}}}}
    - {{header: PLD_2, metric: top1, where: {{loss: pld}}}}
    - {{header: '\\Delta $#', minus: [PLD_2, 'KD [%]']}}
  difference_rows: [{{header: '& ~', minus: [{{student: ResNet-50}}, {{student: ViT-Small/16}}]}}]
"""
# What `escape_latex` may write: a command or group that prints one character, or a character that means itself.
TOKENS = {
    r"\\textbackslash\{\}": "\\",
    r"\\textasciitilde\{\}": "~",
    r"\\textasciicircum\{\}": "^",
    r"\\textbar\{\}": "|",
    r"\\textless\{\}": "<",
    r"\\textgreater\{\}": ">",
    r"\\textasciigrave\{\}": "`",
    r"\\symbol\{34\}": '"',
    r"\\([{}$&#_%])": r"\1",
    r"\{([\[\]*])\}": r"\1",
    r"\$\\pm\$": "±",
    r"\$\^\\dagger\$": "†",
    r"-\{\}(?=-)": "-",
    r"-(?!-)": "-",
    r"([^\\{}$&#_%~^|<>`\"\[\]*\-\x00-\x1f\x7f])": r"\1",
}


def read_back(text: str) -> str:
    """What an escaped text prints; fails at anything that would be more than a printed character."""
    printed = ""
    while text:
        token, match = next((token, m) for token in TOKENS if (m := re.match(token, text)))
        printed += match.expand(TOKENS[token]) if match.groups() else TOKENS[token]
        text = text[match.end() :]
    return printed


def without_comments(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("%"))


def bare(text: str) -> str:
    """Without line breaks and escaped characters, so that what is left has its meaning."""
    return re.sub(r"\\\\|\\[{}$&#_%]", "", text)


def check_structure(text: str) -> list[list[str]]:
    """Asserts balanced braces and environments and rows of equal length; returns the cells of each line."""
    body = without_comments(text)
    depth = 0
    for brace in re.findall("[{}]", bare(body)):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert bare(body).count("$") % 2 == 0 and "%" not in bare(body)
    names = re.findall(r"\\(begin|end)\{(\w+)\}", body)
    assert names == [("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table")]
    rules = [body.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert rules == sorted(rules)
    alignment = re.search(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}", body)
    lines = [line.removesuffix(r" \\") for line in body.splitlines() if line.endswith(r" \\")]
    rows = [re.split(r"(?<!\\)&", line) for line in lines]
    assert {len(row) for row in rows} == {len(alignment[1])}
    return [[cell.strip() for cell in row] for row in rows]


def build_hostile_table(profile: Profiles) -> Table:
    grid = own_grid(GRID, profile("digits"))
    records = make_records([grid])
    other = grid.entries[0].cell
    records[other.cell_id] = make_record(other, commit="fedcba9876543-dirty")
    lost = next(e.cell for e in grid.entries if e.labels["loss"] == "pld" and e.cell.seed == 1)
    records[lost.cell_id] = make_record(lost, "lost", reason="finished under spec version 1")
    return build_table(grid, records)


@given(st.text() | st.text(alphabet="\\{}$&#_%~^[]*-<>|`\"'±† a1"))
def test_escape_latex_prints_text_unchanged(text):
    assert read_back(escape_latex(text)) == re.sub("[\x00-\x1f\x7f]", " ", text)
    # A line may begin with it: no argument of the line break before.
    assert not escape_latex(text).startswith(("[", "*"))


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("name", TABLES)
def test_render_latex_every_table_is_complete(name, seeds, profile):
    grid = table_grid(name, profile("digits"), seeds)
    table = build_table(grid, make_records([grid]), PAPER)
    text = render_latex(table)
    lines = check_structure(text)
    assert rf"\label{{tab:pld-grid-{name}}}" in text
    assert text.startswith("% Needs \\usepackage{booktabs} and \\usepackage{xcolor}")
    for row in table.rows:
        for cell in row.cells:
            if isinstance(cell, Value) and cell.paper:
                assert rf"\textcolor{{darkgray}}{{{cell.paper.replace('-', '$-$')}" in text
    starts = [row.cells[0] for row in table.rows]
    assert [line[0] for line in lines[1:] if line[0]] == [escape_latex(str(start)) for start in starts]


def test_render_latex_hostile_texts_keep_structure(profile):
    table = build_hostile_table(profile)
    lines = check_structure(render_latex(table))
    words = lines[0][1].removeprefix(r"\shortstack[r]{").removesuffix("}").split(r"\\")
    assert [read_back(word) for word in words] == ["KD", "[%]"]
    firsts = [line[0] for line in lines if line[0]]
    assert [read_back(first) for first in firsts] == ["St & udent_", "[1em] * \\\\", "% {", "& ~"]
    caption = re.search(r"^  \\caption\{(.*)\}$", render_latex(table), re.MULTILINE)
    # LaTeX numbers the table itself.
    assert read_back(caption[1]).startswith(f'{HOSTILE} "k". ')


def test_render_latex_any_name_gives_plain_label(profile):
    grid = own_grid("cells: {student: ResNet-50, loss: ce}", profile("digits"), "my_grid %2}")
    assert r"\label{tab:pld-grid-my-grid--2-}" in render_latex(build_table(grid, {}))


def test_render_latex_shows_spread_interval_mark_and_state(profile):
    table = build_hostile_table(profile)
    text = render_latex(table)
    kd, pld, gain = (cell for cell in table.rows[0].cells[1:] if isinstance(cell, Value))
    assert kd.mean is not None and kd.std is not None and kd.from_other_version and pld.mean is not None
    assert rf"{kd.mean:.2f}$^\dagger$ {{\scriptsize $\pm$ {kd.std:.2f} (2)}}" in text
    assert rf"{pld.mean:.2f} {{\scriptsize $\pm$ - (1)}}" in text
    assert r"{\scriptsize n = 1 of 2}" in text
    assert gain.interval is None and r"{\scriptsize {[}-{]}}" in text and "fewer than two seeds finished" in text
    whole = table.rows[1].cells[3]
    low, high = (f"{bound:.2f}".replace("-", "$-$") for bound in (whole.interval.low, whole.interval.high))
    assert rf"{{\scriptsize {{[}}{low}, {high}{{]}}}}" in text
    assert "fedcba9876 (had uncommitted changes)" in text and "355 validation images" in text
    assert "Not the paper's experiments" in text and "number of seeds" in text


def test_render_latex_shows_printed_std(profile, tmp_path):
    (tmp_path / "mine.csv").write_text("loss,A,A std\nce,70.26,0.24\nls,,\n")
    layout = "{rows: [loss], columns: [{header: loss, axis: loss}, {header: A, metric: top1}], paper: mine}"
    grid = own_grid(f"cells: {{student: ResNet-50, loss: [ce, ls]}}\ntable: {layout}", profile("digits"))
    text = render_latex(build_table(grid, {}, tmp_path))
    assert r"\textcolor{darkgray}{70.26 $\pm$ 0.24}" in text and r"\textcolor{darkgray}{-}" in text
    assert r"{\scriptsize not run}" in text


@pytest.mark.skipif(ENGINE is None, reason="no LaTeX engine on this machine")
def test_render_latex_compiles(profile, tmp_path):
    grids = [table_grid(name, profile("digits"), 2) for name in ("table03", "table05")]
    tables = [build_hostile_table(profile), *(build_table(grid, make_records([grid]), PAPER) for grid in grids)]
    body = "\n".join(render_latex(table) for table in tables)
    source = "\n".join(
        [
            r"\documentclass{article}\usepackage{booktabs}\usepackage{xcolor}",
            r"\begin{document}",
            body,
            r"\end{document}",
        ]
    )
    (tmp_path / "paper.tex").write_text(source, encoding="utf-8")
    command = [str(ENGINE), "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-3000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 0
