"""Discovery of losses, their hyperparameters, and the error messages about both."""

import math
import re
import sys

import pytest
from reference_losses import draw

from pld_grid.train import losses


def test_available_losses_have_the_papers_defaults():
    assert {name: losses.get_loss_class(name).defaults() for name in losses.available()} == {
        "ce": {},
        "dist": {"alpha": 0.1, "beta": 0.45, "gamma": 0.45, "tau": 1.0},
        "dkd": {"ce_weight": 1.0, "alpha": 1.0, "beta": 8.0, "tau": 4.0},
        "kd": {"alpha": 0.1, "tau": 2.0, "divergence": "forward"},
        "ls": {"eps": 0.1},
        "pld": {"tau": 1.0, "weights": "teacher"},
    }


@pytest.mark.parametrize("name", losses.available())
def test_only_distillation_losses_use_and_standardize_a_teacher(name):
    loss_class = losses.get_loss_class(name)
    assert loss_class.uses_teacher == (name not in ("ce", "ls"))
    assert loss_class.standardizations == (("none", "both", "teacher") if loss_class.uses_teacher else ("none",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "pdl"}, 'unknown loss "pdl"; valid: ce, dist, dkd, kd, ls, pld (did you mean "pld"?)'),
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
        ({"name": "ce", "standardization": "both"}, 'unknown standardization of loss "ce": "both"; valid: none'),
        (
            {"name": "kd", "divergence": "revers"},
            'kd: unknown divergence "revers"; valid: forward, reverse, js (did you mean "reverse"?)',
        ),
        ({"name": "pld", "weights": None}, 'pld: unknown weights "None"; valid: teacher, uniform, position'),
        ({"name": "kd", "alpha": 1.5}, "kd: alpha must be a finite number in [0, 1], got 1.5"),
        ({"name": "kd", "alpha": -0.1}, "kd: alpha must be a finite number in [0, 1], got -0.1"),
        ({"name": "ls", "eps": 1}, "ls: eps must be a finite number in [0, 1), got 1"),
        ({"name": "pld", "tau": 0}, "pld: tau must be a finite number in (0, inf), got 0"),
        ({"name": "dist", "beta": -1}, "dist: beta must be a finite number in [0, inf), got -1"),
        ({"name": "dkd", "beta": -1}, "dkd: beta must be a finite number in [0, inf), got -1"),
        ({"name": "dkd", "ce_weight": -1}, "dkd: ce_weight must be a finite number in [0, inf), got -1"),
    ],
)
def test_build_with_an_invalid_argument_names_the_valid_ones(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        losses.build(**arguments)


@pytest.mark.parametrize("value", [True, "1", None, math.nan, math.inf, -math.inf, 10**400, [1.0], 1j])
@pytest.mark.parametrize(
    ("name", "field"),
    [
        (name, field)
        for name in losses.available()
        for field, default in losses.get_loss_class(name).defaults().items()
        if isinstance(default, float)
    ],
)
def test_build_with_anything_but_a_finite_number_raises(name, field, value):
    with pytest.raises(ValueError, match=f"^{name}: {field} must be a finite number in "):
        losses.build(name, **{field: value})


def test_build_converts_integers_to_floats():
    tau = losses.build("kd", tau=4).settings()["tau"]
    assert type(tau) is float and tau == 4.0


NEW_LOSS = """
from dataclasses import dataclass
from ._base import DistillationLoss
from ._hyperparameters import number

@dataclass(frozen=True, kw_only=True, eq=False)
class Gap(DistillationLoss):
    "The squared distance of the logits."
    scale: float = number(1.0, above=0)

    def forward(self, student_NC, distilled_NC, teacher, target_N):
        return self.scale * (distilled_NC - teacher.logits_NC).square().mean()
"""


@pytest.fixture
def add_loss_file(tmp_path, monkeypatch):
    """Adds a file to the losses' package, as far as Python can tell."""

    def add(text):
        (tmp_path / "new_loss.py").write_text(text)
        monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])

    yield add
    sys.modules.pop("pld_grid.train.losses.new_loss", None)


def test_a_new_loss_needs_one_new_file_only(add_loss_file):
    add_loss_file(NEW_LOSS)
    assert "new_loss" in losses.available()
    loss = losses.build("new_loss", scale=2, standardization="both")
    assert loss(*draw(3, 4)) > 0
    assert loss.settings() == {"scale": 2.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from .ce import CrossEntropy", "new_loss must define exactly one loss, not 0"),
        (NEW_LOSS.replace("number(1.0, above=0)", "1.0"), r"declare hyperparameter 'scale' with number\(\)"),
    ],
    ids=["no loss", "no valid values"],
)
def test_a_mistake_in_a_loss_file_raises_type_error(add_loss_file, text, message):
    add_loss_file(text)
    with pytest.raises(TypeError, match=message):
        losses.build("new_loss")
