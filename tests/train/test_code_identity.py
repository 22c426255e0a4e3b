"""The code of losses, datasets and models is part of cells: revisions of shipped files, fingerprints of the user's."""

import dataclasses
import shutil

import pytest
from cells import make_cell
from cli_process import Service
from paths import ROOT

from pld_grid.experiment.cell import Dataset, Loss, Model
from pld_grid.train import discovery
from pld_grid.train.code_identity import fingerprint

SOURCE = '''
"""A loss."""
from torch.nn import functional

def double(values):
    """Return twice the values."""
    return 2 * values  # exact in binary
'''


@pytest.mark.parametrize(
    "same",
    [
        SOURCE.replace("A loss.", "A better description."),
        SOURCE.replace("  # exact in binary", ""),
        SOURCE.replace("twice the values", "the doubled values"),
        SOURCE.replace("2 * values", "(2   *  values)"),
    ],
)
def test_fingerprint_ignores_comments_docstrings_and_layout(same):
    assert same != SOURCE
    assert fingerprint(same) == fingerprint(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"), [("2 * values", "3 * values"), ("def double", "def twice"), ("import functional", "import init")]
)
def test_fingerprint_changes_with_the_code(old, new):
    assert fingerprint(SOURCE.replace(old, new)) != fingerprint(SOURCE)


def test_every_shipped_component_declares_a_revision(registry):
    codes = [info.code for info in (*registry.losses.values(), *registry.datasets.values())]
    codes += [registry.model_code(name) for name in ("cifar_resnet20", "cifar_mobilenetv2_050")]
    codes += [registry.model_code("mobilenetv4_conv_small_narrow")]
    assert len(codes) >= 12
    assert all(code.startswith("revision ") for code in codes), codes
    assert registry.model_code("resnet50") == ""


def test_raised_revision_makes_other_cells_of_its_own_loss(grid, monkeypatch):
    cells = "cells: {student: ResNet-50, loss: [ce, ls]}"
    before = {entry.cell.loss.name: entry.cell.cell_id for entry in grid(cells).entries}
    info = grid(cells).profile.registry.losses["ce"]
    changed = dataclasses.replace(info, code="revision 2")
    monkeypatch.setitem(grid(cells).profile.registry.losses, "ce", changed)
    after = {entry.cell.loss.name: entry.cell.cell_id for entry in grid(cells).entries}
    assert after["ls"] == before["ls"]
    assert after["ce"] != before["ce"]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"loss": Loss(name="ce", code="source 0123456789abcdef")}, "loss ce is revision 1 here, and source"),
        ({"dataset": Dataset(name="digits", code="revision 9", num_classes=10, channels=1, image_size=16)}, "dataset"),
        ({"student": Model(architecture="cifar_resnet20", code="revision 9")}, "model cifar_resnet20"),
    ],
)
def test_check_code_refuses_a_cell_of_other_code(part, message):
    with pytest.raises(discovery.CodeMismatch, match=message):
        discovery.check_code(make_cell(**part))


MY_LOSS = '''
"""CE times a factor."""
from dataclasses import dataclass

from torch.nn import functional

from pld_grid.train.losses._base import LabelLoss


@dataclass(frozen=True, kw_only=True, eq=False)
class Mine(LabelLoss):
    """CE times a factor."""

    def forward(self, student_NC, target_N):
        """Return the loss."""
        return 1.0 * functional.cross_entropy(student_NC, target_N)
'''


@pytest.mark.ray
def test_edited_loss_of_the_user_is_trained_again_and_a_comment_is_not(tmp_path, database):
    """Through the front door: the file of a loss that git does not know, in a copy of the package."""
    package = tmp_path / "code" / "pld_grid"
    shutil.copytree(ROOT / "pld_grid", package, ignore=shutil.ignore_patterns("__pycache__"))
    mine = package / "train" / "losses" / "mine.py"
    mine.write_text(MY_LOSS)
    block = "cells: {student: small, epochs: 2, loss: mine}\n"
    service = Service(tmp_path / "run", grid=block, database=database)
    service.environment["PYTHONPATH"] = str(package.parent)
    assert "1 cells trained" in service.run("run")[1]
    mine.write_text(MY_LOSS.replace("CE times a factor.", "Cross-entropy.") + "# a remark\n")
    assert "1 were finished before" in (unchanged := service.run("run")[1]), unchanged
    mine.write_text(MY_LOSS.replace("1.0 *", "2.0 *"))
    assert "1 cells trained" in service.run("run")[1]
