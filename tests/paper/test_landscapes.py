"""Loss landscapes: slices, losses on them, and the command that draws them."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import pld_grid.paper.landscapes as landscapes
from pld_grid.paper.landscapes import COMPARED, MEASURED, TEMPERATURES, draw_slice
from pld_grid.paper.landscapes.logit_slice import REACH, Array, Slice, grid_steps, single_thread
from pld_grid.paper.landscapes.loss_shapes import POINTS, measure_shape, measure_slices, second_differences
from pld_grid.train.losses import build

pytestmark = pytest.mark.slow

STEPS = grid_steps(11)
CLASSES = (10, 1000)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _single_thread() -> Iterator[None]:
    with single_thread():
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


def knowledge_distillation(on: Slice, student: Array) -> float:
    teacher_q, student_q = softmax(on.teacher_C / 2), softmax(student / 2)
    return 0.1 * cross_entropy(on, student) + 0.9 * 4 * float((teacher_q * np.log(teacher_q / student_q)).sum())


def dist(on: Slice, student: Array) -> float:
    student_q, teacher_q = (softmax(logits) - 1 / on.classes for logits in (student, on.teacher_C))
    # DIST's 1e-8 matters: a thousand nearly equal probabilities have norms of a thousandth.
    correlation = student_q @ teacher_q / (np.linalg.norm(student_q) * np.linalg.norm(teacher_q) + 1e-8)
    return 0.1 * cross_entropy(on, student) + 0.45 * (1 - correlation) + 0.45


class TestSlice:
    @pytest.mark.parametrize("classes", [2, 10, 1000])
    def test_slice_has_a_teacher_of_unit_norm_and_orthonormal_directions(self, classes):
        on = draw_slice(classes, seed=3)
        assert np.linalg.norm(on.teacher_C) == pytest.approx(1, abs=1e-12)
        np.testing.assert_allclose(on.directions_2C @ on.directions_2C.T, np.eye(2), atol=1e-12)

    def test_seed_determines_the_slice(self):
        first, again, other = draw_slice(seed=1), draw_slice(seed=1), draw_slice(seed=2)
        assert np.array_equal(first.student_logits(np.ones((1, 2))), again.student_logits(np.ones((1, 2))))
        assert not np.allclose(first.teacher_C, other.teacher_C)
        assert not np.allclose(first.directions_2C, other.directions_2C)

    def test_label_has_the_given_rank(self):
        for rank in (1, 2, 10):
            on = draw_slice(10, 0, rank)
            assert (on.teacher_C > on.teacher_C[on.label]).sum() == rank - 1

    def test_grid_has_alpha_along_columns_and_beta_along_rows(self):
        on = draw_slice(10)
        values = on.evaluate_grid(build("pld"), STEPS)
        first, second = on.directions_2C
        for i, j in ((0, 0), (10, 0), (0, 10), (3, 8)):
            student = on.teacher_C + STEPS[i] * first + STEPS[j] * second
            assert values[j, i] == pytest.approx(plackett_luce(on, student), rel=1e-12)


class TestValues:
    @pytest.mark.parametrize("classes", CLASSES)
    @pytest.mark.parametrize("rank", [1, 4])
    @pytest.mark.parametrize(
        ("name", "formula"),
        [
            ("KD", knowledge_distillation),
            ("DIST", dist),
            *((f"PLD, T = {tau:g}", partial(plackett_luce, tau=tau)) for tau in (2.0, 1.0, 0.5, 0.1)),
        ],
    )
    def test_losses_equal_the_papers_formulas(self, name, formula, classes, rank):
        on = draw_slice(classes, 5, rank)
        points = np.array([(0.0, 0.0), (-5.0, 5.0), (1.25, -0.5), (5.0, 5.0)])
        expected = [formula(on, student) for student in on.student_logits(points)]
        np.testing.assert_allclose(on.evaluate(MEASURED[name], points), expected, rtol=1e-10)

    def test_losses_do_not_depend_on_other_points(self):
        on = draw_slice(100)
        for loss in MEASURED.values():
            points = np.array([(0.5, 1.0), (4.0, 4.0), (-5.0, 2.0)])
            values = on.evaluate(loss, points)
            single = [on.evaluate(loss, point[None])[0] for point in points]
            np.testing.assert_allclose(values, single, rtol=1e-13)
            assert np.ptp(values) > 1e-3


class TestShape:
    def test_second_differences_of_a_quadratic_are_exact(self):
        alpha, beta = np.meshgrid(STEPS, STEPS)
        values = 3 * alpha**2 - beta**2 + alpha * beta
        expected = {(0, 1): 6.0, (1, 0): -2.0, (1, 1): 6 - 2 + 2, (1, -1): 6 - 2 - 2}
        for direction, value in expected.items():
            np.testing.assert_allclose(second_differences(values, direction), value, atol=1e-12)
            assert second_differences(values, direction).shape == (9, 9)

    @pytest.mark.parametrize("classes", [2, *CLASSES])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_pld_and_kd_are_convex_on_every_slice(self, classes, seed):
        for name, loss in MEASURED.items():
            if name != "DIST":
                assert measure_shape(draw_slice(classes, seed), loss).convex, name

    @pytest.mark.parametrize("classes", CLASSES)
    def test_dist_is_curved_at_the_teacher_and_flat_elsewhere(self, classes):
        shape = measure_shape(draw_slice(classes), build("dist"))
        assert not shape.convex
        assert shape.curvature_at_teacher > 20 * shape.mean_curvature

    @pytest.mark.parametrize("classes", CLASSES)
    def test_only_cross_entropy_moves_kds_minimum_away_from_the_teacher(self, classes):
        on = draw_slice(classes)
        assert on.find_minimum(build("kd", alpha=0), (3.0, -2.0)) == pytest.approx((0, 0), abs=1e-3)
        assert np.hypot(*on.find_minimum(build("kd"), (0.0, 0.0))) > 0.2

    @pytest.mark.parametrize("name", ["KD", "PLD"])
    @pytest.mark.parametrize("classes", CLASSES)
    def test_minimum_of_a_convex_loss_does_not_depend_on_the_start(self, name, classes):
        on, loss = draw_slice(classes, 1), COMPARED[name]
        minimum = on.find_minimum(loss, (0.0, 0.0))
        assert on.find_minimum(loss, (-4.5, 4.5)) == pytest.approx(minimum, abs=2e-3)
        assert on.evaluate(loss, np.array([minimum]))[0] <= on.evaluate_grid(loss, STEPS).min()

    def test_minimum_outside_the_square_is_on_its_edge(self):
        on = draw_slice(10)
        # Cross-entropy decreases without end along the label's one-hot vector.
        one_hot = np.eye(10)[on.label]
        across = on.directions_2C[0] - on.directions_2C[0] @ one_hot * one_hot
        shape = measure_shape(replace(on, directions_2C=np.stack([across, one_hot])), build("ce"))
        assert shape.minimum[1] == REACH
        assert shape.on_edge

    def test_measure_slices_measures_every_loss_on_every_slice(self):
        slices = [draw_slice(10, 0), draw_slice(12, 1)]
        measured = measure_slices(slices, {"PLD": build("pld"), "KD": build("kd")})
        assert [each.on for each in measured] == slices and [*measured[0].shapes] == ["PLD", "KD"]
        assert measured[1].shapes["PLD"] == measure_shape(slices[1], build("pld"))
        values = slices[1].evaluate_grid(build("pld"), grid_steps(POINTS))
        curvatures = [second_differences(values, direction)[4, 4] for direction in ((0, 1), (1, 0))]
        assert measured[1].shapes["PLD"].curvature_at_teacher == pytest.approx(np.mean(curvatures))


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `pld-grid landscapes ARGUMENTS` on few slices; return exit code, standard output and standard error."""
    monkeypatch.setattr(landscapes, "SLICES_PER_COUNT", 3)
    monkeypatch.setattr(landscapes, "CLASS_COUNTS", (10,))
    return partial(run, "landscapes")


FILES = {f"figure{number}.{kind}" for number in (3, 4) for kind in ("svg", "png", "csv")} | {"slices.csv", "README.md"}


class TestCommand:
    def test_landscapes_writes_only_files_that_changed(self, run):
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

        (folder / "figure4.csv").write_text("changed")
        code, out, err = run(*options)
        assert out.splitlines() == [str(folder / "figure4.csv"), f"{folder}: 1 files written"]

    def test_csv_has_the_losses_and_captions_describe_the_slice(self, run):
        assert run("--out", "here", "--classes", "12", "--points", "5", "--seed", "7", "--label-rank", "2")[0] == 0
        on, steps = draw_slice(12, 7, 2), grid_steps(5)
        for name, losses in (("figure3", COMPARED), ("figure4", TEMPERATURES)):
            header, *rows = csv.reader(Path(f"here/{name}.csv").read_text().splitlines())
            assert header == ["alpha", "beta", *losses]
            numbers = np.array(rows, dtype=float)
            for column, loss in enumerate(losses.values(), start=2):
                np.testing.assert_allclose(numbers[:, column], on.evaluate(loss, numbers[:, :2]), rtol=1e-11)
            assert sorted({*numbers[:, 0]}) == sorted({*numbers[:, 1]}) == list(steps)
        page = Path("here/README.md").read_text()
        assert page.count("12 normal numbers (seed 7)") == 2
        assert page.count("ranks at place 2") == 2
        assert "KD alpha 0.1, tau 2, divergence forward" in page

    def test_page_counts_agree_with_slices_csv(self, run):
        assert run("--out", "here", "--classes", "10", "--points", "5")[0] == 0
        rows = list(csv.DictReader(Path("here/slices.csv").read_text().splitlines()))
        assert {(row["classes"], row["seed"]) for row in rows} == {("10", seed) for seed in "012"}
        by_loss = {name: [row for row in rows if row["loss"] == name] for name in MEASURED}
        nearer = sum(
            float(pld["distance"]) < float(kd["distance"])
            for pld, kd in zip(by_loss["PLD, T = 1"], by_loss["KD"], strict=True)
        )
        convex = sum(float(row["least curvature"]) >= -1e-9 for row in by_loss["DIST"])
        page = Path("here/README.md").read_text()
        (nearer_line,) = (line for line in page.splitlines() if "more tightly centered" in line)
        assert nearer_line.endswith(f"| {nearer} of 3 |")
        (convex_line,) = (line for line in page.splitlines() if "induce convex surfaces" in line)
        assert f"DIST {convex} of 3, KD 3 of 3, PLD 3 of 3" in convex_line

    def test_output_folder_that_is_a_file_is_one_line(self, run):
        Path("taken").write_text("content")
        code, out, err = run("--out", "taken", "--classes", "10", "--points", "5")
        assert (code, out) == (2, "")
        assert err.startswith("error: taken")
        assert len(err.splitlines()) == 1
        assert Path("taken").read_text() == "content"
