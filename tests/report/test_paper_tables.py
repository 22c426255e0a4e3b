"""Test the ten grids against the ten printed tables."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from paper_records import PAPER, TABLES, all_grids, make_record, table_grid

from pld_grid.experiment.profile import Profile
from pld_grid.planning.plan import make_plan
from pld_grid.report.table import Table
from pld_grid.report.table_builder import build_table
from pld_grid.report.values import Value
from pld_grid.store.records import CellRecord

Profiles = Callable[[str], Profile]
PROFILES = ("digits", "cifar100", "imagenet")


def printed(name: str) -> list[list[str]]:
    with (PAPER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("scale", PROFILES)
def test_table_rows_and_columns_match_the_paper(name, scale, profile):
    table = build_table(table_grid(name, profile(scale)), {}, PAPER)
    headers, *rows = printed(name)
    assert list(table.headers) == headers
    ours = [["" if isinstance(cell, Value) else cell for cell in row.cells] for row in table.rows]
    numbers = [[isinstance(cell, Value) for cell in row.cells] for row in table.rows]
    keys = [
        [("" if is_number else text) for text, is_number in zip(*pair, strict=True)]
        for pair in zip(rows, numbers, strict=True)
    ]
    assert ours == keys


@pytest.mark.parametrize("name", TABLES)
def test_paper_figures_stay_as_printed(name, profile):
    table = build_table(table_grid(name, profile("imagenet")), {}, PAPER)
    ours = [[cell.paper if isinstance(cell, Value) else cell for cell in row.cells] for row in table.rows]
    assert ours == printed(name)[1:]


@pytest.mark.parametrize("scale", PROFILES)
def test_plan_counts_cells_as_by_hand(scale, profile):
    grids = all_grids(profile(scale))
    plan = make_plan(grids)
    uses = {
        "table01": 1 + 1 + 2 + 2,  # CE, LS, two KD, two DIST
        "table02": 5 + 2,  # five temperatures, ListMLE, pListMLE
        "table03": 5 * 3,  # pairs x (KD, DIST, PLD)
        "table04": 5 * 3,  # teachers x (KD, DIST, PLD)
        "table05": 2 * 4,  # 100 and 300 epochs x (CE, KD, DIST, PLD)
        "table06": 1 + 1 + 10 + 11,  # CE, LS, ten KD, eleven DIST
        "table07": 4 * 3,  # optimizers x losses
        "table08": 4 + 1,  # four rows and the PLD baseline
        "table09": 3 + 1,  # three divergences and the PLD baseline
        "table10": 9 * 3,  # pairs x losses
    }
    assert {g.name: sum(e.role != "teacher" for e in g.entries) for g in grids} == uses
    assert plan.entries == sum(uses.values()) == 122
    new = {
        "table06": 23,  # Table 1 is a part of it
        "table02": 7,  # all PLD, which Table 6 has not
        "table03": 4 * 3,  # ResNet-50 <- ResNet-152 is in Tables 6 (KD, DIST at alpha 0.1) and 2 (PLD at tau 1)
        "table04": 4 * 3,  # the same row again is no new one
        "table05": 1 + 4,  # at 100 epochs only CE is not in Table 3
        "table07": 12,  # Conv Small <- Hybrid Large; Table 3's Conv Small learns from Conv Large
        "table08": 4,  # its baseline is Table 7's PLD under Lamb
        "table09": 2,  # forward KL and the baseline are Table 7's under Lamb
        "table10": 3,  # only ViT-Base <- ViT-Large: Tables 3 and 4 have the other pairs
    }
    assert len(plan.students) == sum(new.values()) == 80
    # ResNet-152, Conv Large, Hybrid Medium, Hybrid Large, ViT-Base, ViT-Large: measured if published, else trained.
    published = scale == "imagenet"
    assert (len(plan.measurements), len(plan.teachers)) == ((6, 0) if published else (0, 6))
    assert len(plan.cells) == 86
    if published:
        assert sum(plan.cells[i].epochs for i in plan.students) == 76 * 100 + 4 * 300


def test_imagenet_teachers_have_documented_tags(profile):
    plan = make_plan(all_grids(profile("imagenet")))
    models = [plan.cells[i].student for i in plan.measurements]
    halves = (0.5, 0.5, 0.5)
    means = {f"{m.architecture}.{m.pretrained.tag}": m.pretrained.mean for m in models if m.pretrained}
    assert means == {
        "resnet152.gluon_in1k": None,
        "mobilenetv4_conv_large.e500_r256_in1k": None,
        "mobilenetv4_hybrid_medium.ix_e550_r384_in1k": None,
        "mobilenetv4_hybrid_large.ix_e600_r384_in1k": None,
        "vit_base_patch16_224.orig_in21k_ft_in1k": halves,
        "vit_large_patch16_224.augreg_in21k_ft_in1k": halves,
    }


def test_teacher_normalisation_matches_timm(profile):
    import timm

    imagenet = profile("imagenet")
    for model in imagenet.file.models.values():
        if model.pretrained is None:
            continue
        published = timm.get_pretrained_cfg(f"{model.architecture}.{model.pretrained.tag}")
        own = (model.pretrained.mean or imagenet.recipe.mean, model.pretrained.std or imagenet.recipe.std)
        assert own == (published.mean, published.std), model.architecture


# -- the paper's own figures, fed in as if they were ours -------------------------------------------------------------


def list_printed_values(table: Table) -> Iterator[tuple[str, Value]]:
    """Yield each number that the paper prints too, with its place."""
    for row in table.rows:
        for header, value in zip(table.headers, row.cells, strict=True):
            if isinstance(value, Value) and value.paper:
                yield f"{table.name}: {row.name}, {header}", value


def make_paper_records(profile: Profile) -> tuple[dict[str, CellRecord], set[str]]:
    """Return records of the paper's numbers, and the places where two tables print different numbers for one cell."""
    records: dict[str, CellRecord] = {}
    conflicts: set[str] = set()
    for table in (build_table(grid, {}, PAPER) for grid in all_grids(profile)):
        for place, value in list_printed_values(table):
            if len(value.samples[0].terms) > 1:
                continue
            (term,) = value.samples[0].terms
            blank = make_record(table.cells[term.cell_id], metrics={}, parameters=None)
            record = records.setdefault(term.cell_id, blank)
            known: float | None
            printed: float
            if term.metric == "parameters":
                known, printed = record.parameters, round(float(value.paper or "") * 1e6)
                records[term.cell_id] = replace(record, parameters=printed)
            else:
                known, printed = record.metrics.get(term.metric), float(value.paper or "")
                records[term.cell_id] = replace(record, metrics={**record.metrics, term.metric: printed})
            if known is not None and known != printed:
                conflicts.add(f"{place}: {printed}, elsewhere {known}")
    return records, conflicts


@pytest.fixture(scope="module")
def paper_tables(profile: Profiles) -> list[Table]:
    records, _ = make_paper_records(profile("imagenet"))
    return [build_table(grid, records, PAPER) for grid in all_grids(profile("imagenet"))]


def test_paper_tables_print_one_number_per_cell(profile):
    assert make_paper_records(profile("imagenet"))[1] == set()


def test_paper_differences_follow_from_paper_figures(paper_tables):
    """All 43 printed differences agree with their printed operands, to the last digit."""
    values = [pair for table in paper_tables for pair in list_printed_values(table)]
    differences = [(place, value) for place, value in values if len(value.samples[0].terms) > 1]
    # Tables 3 and 4: 5 x 2; Table 5: 2 x 2 and a row of 4; Table 7: 4 x 2; Table 8: 4; Table 9: 3.
    assert len(differences) == 10 + 10 + 4 + 4 + 8 + 4 + 3
    assert [place for place, value in differences if f"{value.mean:.2f}" != value.paper] == []


def test_tables_of_paper_figures_reproduce_the_paper(paper_tables):
    for table in paper_tables:
        for place, value in list_printed_values(table):
            assert value.difference == pytest.approx(0, abs=1e-9), place


def test_table_8_subtracts_from_baseline(paper_tables):
    first = paper_tables[7].rows[0].cells[2]
    assert [(term.sign, term.value) for term in first.samples[0].terms] == [(1, 71.16), (-1, 71.12)]
