"""Names, hyperparameters, and how mistakes in them are reported."""

import math
import re
import sys

import pytest

from pld_grid.train import losses


def test_the_papers_losses_and_their_defaults():
    assert losses.available() == ("ce", "dist", "dkd", "kd", "ls", "pld")
    assert {name: losses.build(name).settings() for name in losses.available()} == {
        "ce": {},
        "ls": {"eps": 0.1},
        "kd": {"alpha": 0.1, "tau": 2.0, "divergence": "forward"},
        "dist": {"alpha": 0.1, "beta": 0.45, "gamma": 0.45, "tau": 1.0},
        "dkd": {"ce_weight": 1.0, "alpha": 1.0, "beta": 8.0, "tau": 4.0},
        "pld": {"tau": 1.0, "weights": "teacher"},
    }
    assert {name: losses.loss_class(name).uses_teacher for name in losses.available()} == {
        "ce": False,
        "ls": False,
        "kd": True,
        "dist": True,
        "dkd": True,
        "pld": True,
    }
    for name in losses.available():
        cls = losses.loss_class(name)
        modes = ("none", "both", "teacher") if cls.uses_teacher else ("none",)
        assert cls.standardizations == modes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "pdl"},
            'unknown loss "pdl"; valid: ce, dist, dkd, kd, ls, pld (did you mean "pld"?)',
        ),
        ({"name": "_base"}, 'unknown loss "_base"; valid: ce, dist, dkd, kd, ls, pld'),
        (
            {"name": "kd", "alfa": 0.1},
            'unknown hyperparameter of loss "kd": "alfa"; valid: alpha, tau, divergence (did you mean "alpha"?)',
        ),
        ({"name": "ce", "eps": 0.1}, 'unknown hyperparameter of loss "ce": "eps"; valid: none'),
        (
            {"name": "pld", "standardization": "teachr"},
            'unknown standardization of loss "pld": "teachr"; valid: none, both, teacher (did you mean "teacher"?)',
        ),
        (
            {"name": "ce", "standardization": "both"},
            'unknown standardization of loss "ce": "both"; valid: none',
        ),
        (
            {"name": "kd", "divergence": "revers"},
            'kd: unknown divergence "revers"; valid: forward, reverse, js (did you mean "reverse"?)',
        ),
        (
            {"name": "pld", "weights": None},
            'pld: unknown weights "None"; valid: teacher, uniform, position',
        ),
        ({"name": "kd", "alpha": 1.5}, "kd: alpha must be a finite number in [0, 1], got 1.5"),
        ({"name": "kd", "alpha": -0.1}, "kd: alpha must be a finite number in [0, 1], got -0.1"),
        ({"name": "ls", "eps": 1}, "ls: eps must be a finite number in [0, 1), got 1"),
        ({"name": "pld", "tau": 0}, "pld: tau must be a finite number in (0, inf), got 0"),
        ({"name": "dist", "beta": -1}, "dist: beta must be a finite number in [0, inf), got -1"),
        ({"name": "dkd", "beta": -1}, "dkd: beta must be a finite number in [0, inf), got -1"),
        ({"name": "dkd", "ce_weight": -1}, "dkd: ce_weight must be a finite number in [0, inf), got -1"),
    ],
)
def test_mistakes_are_named_with_what_is_valid(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        losses.build(**arguments)


@pytest.mark.parametrize("value", [True, "1", None, math.nan, math.inf, 10**400, [1.0], 1j])
@pytest.mark.parametrize(
    ("name", "field"),
    [
        (name, hyperparameter.name)
        for name in losses.available()
        for hyperparameter in losses.loss_class(name).hyperparameters()
        if isinstance(hyperparameter.default, float)
    ],
)
def test_only_finite_numbers_are_numbers(name, field, value):
    with pytest.raises(ValueError, match=f"^{name}: {field} must be a finite number in "):
        losses.build(name, **{field: value})


def test_an_integer_becomes_a_float():
    tau = losses.build("kd", tau=4).settings()["tau"]
    assert type(tau) is float and tau == 4.0


NEWCOMER = """
from dataclasses import dataclass
from ._base import DistillationLoss
from ._hyperparameter import number

@dataclass(frozen=True, kw_only=True, eq=False)
class Gap(DistillationLoss):
    "The squared distance of the logits."
    scale: float = number(1.0, above=0)

    def formula(self, student_NC, distilled_NC, teacher, target_N):
        return self.scale * (distilled_NC - teacher.logits_NC).square().mean()
"""


@pytest.fixture
def newcomer(tmp_path, monkeypatch):
    """Adds a file to the losses' folder, as far as Python can tell."""

    def add(text):
        (tmp_path / "newcomer.py").write_text(text)
        monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])

    yield add
    sys.modules.pop("pld_grid.train.losses.newcomer", None)


def test_a_new_loss_is_one_file(reference, newcomer):
    newcomer(NEWCOMER)
    student, teacher, target = reference.draw(3, 4)
    assert "newcomer" in losses.available()
    loss = losses.build("newcomer", scale=2, standardization="both")
    assert loss(student, teacher, target) > 0
    assert loss.settings() == {"scale": 2.0}


def test_a_file_without_a_loss_is_its_authors_mistake(newcomer):
    newcomer("from .ce import CrossEntropy")
    with pytest.raises(TypeError, match="newcomer must define exactly one loss, found 0"):
        losses.build("newcomer")


def test_a_hyperparameter_without_a_range_is_its_authors_mistake(newcomer):
    newcomer(NEWCOMER.replace("number(1.0, above=0)", "1.0"))
    with pytest.raises(TypeError, match=r"declare hyperparameter 'scale' with number\(\)"):
        losses.build("newcomer")
