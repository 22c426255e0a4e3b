"""The ten grids against the ten printed tables."""

import csv
from collections.abc import Callable
from dataclasses import replace

import pytest
from synthetic import PAPER, TABLES, all_grids, make_record, table_grid

from pld_grid.plan import make_plan
from pld_grid.profile import Profile
from pld_grid.records import Record
from pld_grid.report import Table, Value, build_table

Profiles = Callable[[str], Profile]
PROFILES = ("digits", "cifar100", "imagenet")


def printed(name: str) -> list[list[str]]:
    with (PAPER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("scale", PROFILES)
def test_rows_and_columns_are_the_papers_in_its_order(name: str, scale: str, profile: Profiles) -> None:
    table = build_table(table_grid(name, profile(scale)), {}, PAPER)
    headers, *rows = printed(name)
    assert list(table.headers) == headers
    ours = [["" if isinstance(cell, Value) else cell for cell in row.cells] for row in table.rows]
    numbers = [[isinstance(cell, Value) for cell in row.cells] for row in table.rows]
    keys = [[("" if is_number else text) for text, is_number in zip(*pair, strict=True)]
            for pair in zip(rows, numbers, strict=True)]  # fmt: skip
    assert ours == keys


@pytest.mark.parametrize("name", TABLES)
def test_the_papers_figures_stay_as_printed(name: str, profile: Profiles) -> None:
    table = build_table(table_grid(name, profile("imagenet")), {}, PAPER)
    ours = [[cell.paper if isinstance(cell, Value) else cell for cell in row.cells] for row in table.rows]
    assert ours == printed(name)[1:]


@pytest.mark.parametrize("scale", PROFILES)
def test_cells_are_counted_and_shared_as_by_hand(scale: str, profile: Profiles) -> None:
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


def test_teachers_on_imagenet_are_the_documented_tags(profile: Profiles) -> None:
    plan = make_plan(all_grids(profile("imagenet")))
    models = [plan.cells[i].student for i in plan.measurements]
    halves = (0.5, 0.5, 0.5)
    found = {f"{m.architecture}.{m.pretrained.tag}": m.pretrained.mean for m in models if m.pretrained}
    assert found == {
        "resnet152.gluon_in1k": None,
        "mobilenetv4_conv_large.e500_r256_in1k": None,
        "mobilenetv4_hybrid_medium.ix_e550_r384_in1k": None,
        "mobilenetv4_hybrid_large.ix_e600_r384_in1k": None,
        "vit_base_patch16_224.orig_in21k_ft_in1k": halves,
        "vit_large_patch16_224.augreg_in21k_ft_in1k": halves,
    }


def test_a_teachers_normalisation_is_the_one_that_timm_publishes(profile: Profiles) -> None:
    import timm

    imagenet = profile("imagenet")
    for model in imagenet.file.models.values():
        if model.pretrained is None:
            continue
        published = timm.get_pretrained_cfg(f"{model.architecture}.{model.pretrained.tag}")
        assert published is not None
        own = (model.pretrained.mean or imagenet.recipe.mean, model.pretrained.std or imagenet.recipe.std)
        assert own == (published.mean, published.std), model.architecture


# -- the paper's own figures, fed in as if they were ours -------------------------------------------------------------


def paper_records(profile: Profile) -> tuple[dict[str, Record], set[str]]:
    """Records that say what the paper prints, and the places where two tables print different numbers for one cell."""
    records: dict[str, Record] = {}
    conflicts: set[str] = set()
    for grid in all_grids(profile):
        table = build_table(grid, {}, PAPER)
        for row in table.rows:
            for header, value in zip(table.headers, row.cells, strict=True):
                if not isinstance(value, Value) or not value.paper or len(value.samples[0].terms) > 1:
                    continue
                (term,) = value.samples[0].terms
                blank = make_record(table.cells[term.cell_id], metrics={}, parameters=None)
                record = records.setdefault(term.cell_id, blank)
                known: float | None
                said: float
                if term.metric == "parameters":
                    known, said = record.parameters, round(float(value.paper) * 1e6)
                    records[term.cell_id] = replace(record, parameters=said)
                else:
                    known, said = record.metrics.get(term.metric), float(value.paper)
                    records[term.cell_id] = replace(record, metrics={**record.metrics, term.metric: said})
                if known is not None and known != said:
                    conflicts.add(f"{grid.name}: {row.name}, {header}: {said}, elsewhere {known}")
    return records, conflicts


def paper_tables(profile: Profile) -> list[Table]:
    records, _ = paper_records(profile)
    return [build_table(grid, records, PAPER) for grid in all_grids(profile)]


def test_tables_that_share_a_cell_print_the_same_number_for_it(profile: Profiles) -> None:
    assert paper_records(profile("imagenet"))[1] == set()


def test_the_papers_differences_follow_from_its_own_figures(profile: Profiles) -> None:
    """All 43 printed differences agree with their printed operands, to the last digit: none is excepted."""
    disagree, compared = set(), 0
    for table in paper_tables(profile("imagenet")):
        for row in table.rows:
            for header, value in zip(table.headers, row.cells, strict=True):
                if isinstance(value, Value) and value.paper and len(value.samples[0].terms) > 1:
                    compared += 1
                    assert value.mean is not None, (table.name, row.name, header)
                    if f"{value.mean:.2f}" != value.paper:
                        disagree.add(f"{table.name}: {row.name}, {header}: {value.paper}, not {value.mean:.2f}")
    # Tables 3 and 4: 5 x 2; Table 5: 2 x 2 and a row of 4; Table 7: 4 x 2; Table 8: 4; Table 9: 3.
    assert compared == 10 + 10 + 4 + 4 + 8 + 4 + 3
    assert disagree == set()


def test_everything_the_paper_prints_is_reproduced_from_its_own_figures(profile: Profiles) -> None:
    for table in paper_tables(profile("imagenet")):
        for row in table.rows:
            for header, value in zip(table.headers, row.cells, strict=True):
                if isinstance(value, Value) and value.paper:
                    assert value.difference == pytest.approx(0, abs=1e-9), (table.name, row.name, header)


def test_table_8_subtracts_from_the_baseline(profile: Profiles) -> None:
    table = paper_tables(profile("imagenet"))[7]
    signs = [[(t.sign, t.value) for t in row.cells[2].samples[0].terms]  # type: ignore[union-attr]
             for row in table.rows]  # fmt: skip
    assert signs[0] == [(1, 71.16), (-1, 71.12)]
