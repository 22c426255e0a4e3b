"""Loss landscapes: the slice, what losses are on it, and the command that draws them."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import pld_grid.landscapes as landscapes
from pld_grid import cli
from pld_grid.errors import InputError
from pld_grid.landscapes import COMPARED, SURVEYED, TEMPERATURES, draw_slice
from pld_grid.landscapes.slice import REACH, Array, Slice, coordinates
from pld_grid.landscapes.survey import POINTS, second_differences, shape, survey
from pld_grid.train.losses import build

STEPS = coordinates(11)
CLASSES = (10, 1000)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with landscapes.slice.one_thread():
        yield


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def cross_entropy(on: Slice, student: Array) -> float:
    return float(-np.log(softmax(student)[on.label]))


def plackett_luce(on: Slice, student: Array, tau: float = 1.0) -> float:
    """PLD as the paper writes it: a sum over the ranks of the teacher's order, the label first."""
    others = [c for c in np.argsort(-on.teacher_C) if c != on.label]
    ranking = [on.label, *others]
    weights = softmax(on.teacher_C / tau)
    return sum(weights[c] * (np.log(np.exp(student[ranking[k:]]).sum()) - student[c]) for k, c in enumerate(ranking))


def hinton(on: Slice, student: Array) -> float:
    teacher, mine = softmax(on.teacher_C / 2), softmax(student / 2)
    return 0.1 * cross_entropy(on, student) + 0.9 * 4 * float((teacher * np.log(teacher / mine)).sum())


def dist(on: Slice, student: Array) -> float:
    mine, teacher = (softmax(logits) - 1 / on.classes for logits in (student, on.teacher_C))
    # DIST's 1e-8 counts: a thousand nearly equal probabilities have norms of a thousandth.
    correlation = mine @ teacher / (np.linalg.norm(mine) * np.linalg.norm(teacher) + 1e-8)
    return 0.1 * cross_entropy(on, student) + 0.45 * (1 - correlation) + 0.45


class TestSlice:
    @pytest.mark.parametrize("classes", [2, 10, 1000])
    def test_the_teacher_has_unit_norm_and_the_directions_are_orthonormal(self, classes: int) -> None:
        on = draw_slice(classes, seed=3)
        assert np.linalg.norm(on.teacher_C) == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(on.directions_2C @ on.directions_2C.T, np.eye(2), atol=1e-12)

    def test_a_seed_is_a_slice(self) -> None:
        first, again, other = draw_slice(seed=1), draw_slice(seed=1), draw_slice(seed=2)
        assert np.array_equal(first.student(np.ones((1, 2))), again.student(np.ones((1, 2))))
        assert not np.allclose(first.teacher_C, other.teacher_C)
        assert not np.allclose(first.directions_2C, other.directions_2C)

    def test_the_label_has_its_place_in_the_teachers_ranking(self) -> None:
        for rank in (1, 2, 10):
            on = draw_slice(10, 0, rank)
            assert (on.teacher_C > on.teacher_C[on.label]).sum() == rank - 1

    def test_alpha_runs_along_columns_and_beta_along_rows(self) -> None:
        on = draw_slice(10)
        values = on.grid(build("pld"), STEPS)
        first, second = on.directions_2C
        for i, j in ((0, 0), (10, 0), (0, 10), (3, 8)):
            student = on.teacher_C + STEPS[i] * first + STEPS[j] * second
            assert values[j, i] == pytest.approx(plackett_luce(on, student), rel=1e-12)

    @pytest.mark.parametrize("points", [-1, 1, 80])
    def test_a_grid_without_the_teacher_is_refused(self, points: int) -> None:
        with pytest.raises(InputError, match=f"must be odd and at least 3.*got {points}$"):
            coordinates(points)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [((1,), "at least 2 classes, got 1"), ((10, -1), "seed must not be negative"), ((10, 0, 11), "from 1 to 10")],
    )
    def test_what_cannot_be_drawn_is_refused(self, arguments: tuple[int, ...], message: str) -> None:
        with pytest.raises(InputError, match=message):
            draw_slice(*arguments)


class TestValues:
    @pytest.mark.parametrize("classes", CLASSES)
    @pytest.mark.parametrize("rank", [1, 4])
    @pytest.mark.parametrize(("name", "formula"), [("PLD", plackett_luce), ("KD", hinton), ("DIST", dist)])
    def test_they_are_the_papers_formulas(
        self, name: str, formula: Callable[[Slice, Array], float], classes: int, rank: int
    ) -> None:
        on = draw_slice(classes, 5, rank)
        points = np.array([(0.0, 0.0), (-5.0, 5.0), (1.25, -0.5), (5.0, 5.0)])
        expected = [formula(on, student) for student in on.student(points)]
        np.testing.assert_allclose(on.values(COMPARED[name], points), expected, rtol=1e-10)

    @pytest.mark.parametrize("tau", [2.0, 0.5, 0.1])
    def test_so_is_pld_at_other_temperatures(self, tau: float) -> None:
        on = draw_slice(10)
        points = np.array([(0.0, 0.0), (2.0, -3.0)])
        expected = [plackett_luce(on, student, tau) for student in on.student(points)]
        np.testing.assert_allclose(on.values(TEMPERATURES[f"PLD, T = {tau:g}"], points), expected, rtol=1e-12)

    def test_a_point_does_not_depend_on_its_neighbours(self) -> None:
        on = draw_slice(100)
        for loss in SURVEYED.values():
            points = np.array([(0.5, 1.0), (4.0, 4.0), (-5.0, 2.0)])
            together = on.values(loss, points)
            alone = [on.values(loss, point[None])[0] for point in points]
            np.testing.assert_allclose(together, alone, rtol=1e-13)
            assert np.ptp(together) > 1e-3

    def test_dists_intra_term_is_a_constant_here(self) -> None:
        on = draw_slice(100)
        without, with_it = on.grid(build("dist", gamma=0), STEPS), on.grid(build("dist", gamma=0.45), STEPS)
        np.testing.assert_allclose(with_it - without, 0.45, atol=1e-14)

    @pytest.mark.parametrize("name", SURVEYED)
    def test_nothing_changes_along_the_all_ones_direction(self, name: str) -> None:
        on = draw_slice(100)
        ones = np.full(100, 0.1)
        across = on.directions_2C[0] - (on.directions_2C[0] @ ones) * ones
        values = replace(on, directions_2C=np.stack([across, ones])).grid(SURVEYED[name], STEPS)
        np.testing.assert_allclose(values - values[:1], 0, atol=1e-12)
        assert np.ptp(values) > 0.01

    def test_a_hot_teacher_makes_pld_listmle_and_a_cold_one_cross_entropy(self) -> None:
        on = draw_slice(10)
        hot, cold = (on.grid(build("pld", tau=tau), STEPS) for tau in (1e9, 1e-3))
        np.testing.assert_allclose(hot, on.grid(build("pld", weights="uniform"), STEPS), rtol=1e-8)
        np.testing.assert_allclose(cold, on.grid(build("ce"), STEPS), rtol=1e-8)


class TestShape:
    def test_second_differences_of_a_quadratic_are_exact(self) -> None:
        alpha, beta = np.meshgrid(STEPS, STEPS)
        values = 3 * alpha**2 - beta**2 + alpha * beta
        expected = {(0, 1): 6.0, (1, 0): -2.0, (1, 1): 6 - 2 + 2, (1, -1): 6 - 2 - 2}
        for direction, value in expected.items():
            np.testing.assert_allclose(second_differences(values, direction), value, atol=1e-12)
            assert second_differences(values, direction).shape == (9, 9)

    @pytest.mark.parametrize("classes", [2, *CLASSES])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_pld_and_kd_are_convex_on_every_slice(self, classes: int, seed: int) -> None:
        for name, loss in SURVEYED.items():
            if name != "DIST":
                assert shape(draw_slice(classes, seed), name, loss).convex, name

    def test_pld_is_convex_on_a_fine_grid(self) -> None:
        values = draw_slice(10).grid(build("pld"), coordinates(41))
        for direction in ((0, 1), (1, 0), (1, 1), (1, -1)):
            assert second_differences(values, direction).min() >= -1e-9

    @pytest.mark.parametrize("classes", CLASSES)
    def test_dist_dips_at_the_teacher_and_is_flat_elsewhere(self, classes: int) -> None:
        found = shape(draw_slice(classes), "DIST", build("dist"))
        assert not found.convex
        assert found.curvature_at_teacher > 20 * found.mean_curvature

    @pytest.mark.parametrize("classes", CLASSES)
    def test_only_cross_entropy_moves_kds_minimum_away_from_the_teacher(self, classes: int) -> None:
        on = draw_slice(classes)
        assert on.lowest(build("kd", alpha=0), (3.0, -2.0)) == pytest.approx((0, 0), abs=1e-3)
        assert np.hypot(*on.lowest(build("kd"), (0.0, 0.0))) > 0.2

    @pytest.mark.parametrize("name", ["KD", "PLD"])
    @pytest.mark.parametrize("classes", CLASSES)
    def test_a_convex_losss_minimum_is_found_from_anywhere(self, name: str, classes: int) -> None:
        on, loss = draw_slice(classes, 1), COMPARED[name]
        found = on.lowest(loss, (0.0, 0.0))
        assert on.lowest(loss, (-4.5, 4.5)) == pytest.approx(found, abs=2e-3)
        assert on.values(loss, np.array([found]))[0] <= on.grid(loss, STEPS).min()

    def test_a_minimum_beyond_the_square_is_on_its_edge(self) -> None:
        on = draw_slice(10)
        # Along the one-hot of the label, cross-entropy falls for ever.
        one_hot = np.eye(10)[on.label]
        across = on.directions_2C[0] - on.directions_2C[0] @ one_hot * one_hot
        found = shape(replace(on, directions_2C=np.stack([across, one_hot])), "CE", build("ce"))
        assert found.minimum[1] == REACH
        assert found.on_edge

    def test_the_survey_measures_every_loss_in_every_slice(self) -> None:
        slices = [draw_slice(10, 0), draw_slice(12, 1)]
        found = survey(slices, {"PLD": build("pld"), "KD": build("kd")})
        assert [(each.classes, each.seed, list(each.shapes)) for each in found] == [
            (10, 0, ["PLD", "KD"]),
            (12, 1, ["PLD", "KD"]),
        ]
        assert found[1].shapes["PLD"] == shape(slices[1], "PLD", build("pld"))
        values = slices[1].grid(build("pld"), coordinates(POINTS))
        bends = [second_differences(values, direction)[4, 4] for direction in ((0, 1), (1, 0))]
        assert found[1].shapes["PLD"].curvature_at_teacher == pytest.approx(np.mean(bends))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `pld-grid landscapes ARGUMENTS` with a small survey; (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(landscapes, "SLICES", 3)
    monkeypatch.setattr(landscapes, "CLASSES", (10,))
    for name in ("errors", "output"):
        monkeypatch.setattr(cli.console, name, Console(stderr=name == "errors", force_terminal=False))

    def go(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["pld-grid", "landscapes", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return go


FILES = {f"figure{number}.{kind}" for number in (3, 4) for kind in ("svg", "png", "csv")} | {"slices.csv", "README.md"}


class TestCommand:
    def test_it_writes_the_figures_and_leaves_equal_files_alone(self, run: Run) -> None:
        threads = torch.get_num_threads()
        options = ("--classes", "20", "--points", "5", "--seed", "4")
        code, out, err = run(*options)
        folder = Path("reports/landscapes")
        assert (code, err) == (0, "")
        assert {path.name for path in folder.iterdir()} == FILES
        assert set(out.splitlines()) == {str(folder / name) for name in FILES} | {f"{folder}: 8 files written"}
        before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        assert run(*options)[:2] == (0, f"{folder}: up to date\n")
        assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
        assert torch.get_num_threads() == threads

        (folder / "figure4.csv").write_text("spoilt")
        code, out, err = run(*options)
        assert out.splitlines() == [str(folder / "figure4.csv"), f"{folder}: 1 files written"]

    def test_the_data_are_the_losses_and_the_captions_name_the_slice(self, run: Run) -> None:
        assert run("--out", "here", "--classes", "12", "--points", "5", "--seed", "7", "--label-rank", "2")[0] == 0
        on, steps = draw_slice(12, 7, 2), coordinates(5)
        for name, losses in (("figure3", COMPARED), ("figure4", TEMPERATURES)):
            header, *rows = csv.reader(Path(f"here/{name}.csv").read_text().splitlines())
            assert header == ["alpha", "beta", *losses]
            numbers = np.array(rows, dtype=float)
            for column, loss in enumerate(losses.values(), start=2):
                np.testing.assert_allclose(numbers[:, column], on.values(loss, numbers[:, :2]), rtol=1e-11)
            assert sorted({*numbers[:, 0]}) == sorted({*numbers[:, 1]}) == list(steps)
        page = Path("here/README.md").read_text()
        assert page.count("12 normal numbers (seed 7)") == 2
        assert page.count("ranks at place 2") == 2
        assert "KD alpha 0.1, tau 2, divergence forward" in page

    def test_the_pages_counts_follow_from_the_slices(self, run: Run) -> None:
        assert run("--out", "here", "--classes", "10", "--points", "5")[0] == 0
        rows = list(csv.DictReader(Path("here/slices.csv").read_text().splitlines()))
        assert {(row["classes"], row["seed"]) for row in rows} == {("10", seed) for seed in "012"}
        by_loss = {name: [row for row in rows if row["loss"] == name] for name in SURVEYED}
        nearer = sum(
            float(mine["distance"]) < float(theirs["distance"])
            for mine, theirs in zip(by_loss["PLD, T = 1"], by_loss["KD"], strict=True)
        )
        convex = sum(float(row["least curvature"]) >= -1e-9 for row in by_loss["DIST"])
        page = Path("here/README.md").read_text()
        (centred,) = (line for line in page.splitlines() if "more tightly centered" in line)
        assert centred.endswith(f"| {nearer} of 3 |")
        (surfaces,) = (line for line in page.splitlines() if "induce convex surfaces" in line)
        assert f"DIST {convex} of 3, KD 3 of 3, PLD 3 of 3" in surfaces

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--points", "80"), "points along a side must be odd and at least 3, so that the teacher is one; got 80"),
            (("--classes", "1"), "a slice needs at least 2 classes, got 1"),
            (("--seed", "-1"), "a seed must not be negative, got -1"),
            (
                ("--label-rank", "0"),
                "the label's rank must be from 1 to 1000, the number of classes, got 0",
            ),
        ],
    )
    def test_a_bad_option_is_one_line_and_writes_nothing(
        self, run: Run, arguments: tuple[str, ...], message: str
    ) -> None:
        assert run(*arguments) == (2, "", f"error: {message}\n")
        assert not Path("reports").exists()

    def test_a_folder_that_is_a_file_is_one_line(self, run: Run) -> None:
        Path("taken").write_text("mine")
        code, out, err = run("--out", "taken", "--classes", "10", "--points", "5")
        assert (code, out) == (2, "")
        assert err.startswith("error: taken")
        assert len(err.splitlines()) == 1
        assert Path("taken").read_text() == "mine"
