import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from paths import ROOT

from pld_grid.experiment.cell import Optimizer
from pld_grid.experiment.grid import expand
from pld_grid.experiment.profile import Profile, find_profile, load_profile
from pld_grid.experiment.registry import Registry
from pld_grid.service import calibrator
from pld_grid.service.workspace import Workspace
from pld_grid.util.errors import InputError
from pld_grid.util.strict_yaml import read_file, read_text

PROFILES = sorted((ROOT / "grids" / "profiles").glob("*.yaml"))


@pytest.fixture
def changed(tmp_path: Path, registry: Registry) -> Callable[..., Profile]:
    """Return a function that loads a profile with changed keys: `changed({"machine.loader_workers": 3})`."""

    def load(changes: dict[str, object], base: str = "digits") -> Profile:
        data = copy.deepcopy(read_file(find_profile(base)).data)
        for path, value in changes.items():
            *parents, last = path.split(".")
            node = data
            for key in parents:
                node = node.setdefault(key, {})
            node[last] = value
        file = tmp_path / f"{base}.yaml"
        file.write_text(yaml.safe_dump(data, sort_keys=False))
        return load_profile(file, registry)

    return load


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_profile_resolves_all_names_in_its_file(path, profile):
    loaded = profile(path.stem)
    assert loaded.name == path.stem
    assert loaded.dataset.name in loaded.registry.datasets
    for name in loaded.file.models:
        assert loaded.student(name).pretrained is None
    for name in loaded.file.optimizers:
        assert loaded.optimizer(name).options.keys() == loaded.registry.optimizers[name].keys()
    assert loaded.optimizer(None).name == loaded.file.optimizer


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_check_models_of_every_profile_succeeds(path, profile):
    loaded = profile(path.stem)
    loaded.check_models(loaded.student(name) for name in loaded.file.models)


def test_check_models_tries_only_the_given_models(changed):
    odd = {"architecture": "test_resnet", "options": {"no_such": 1}}
    loaded = changed({"models.odd": odd})
    loaded.check_models(loaded.student(name) for name in loaded.file.models if name != "odd")
    with pytest.raises(InputError, match=r"digits\.yaml:\d+: models\.odd: timm makes no test_resnet of these options"):
        loaded.check_models([loaded.student("odd")])


def test_calibrate_with_an_impossible_model_raises_first(changed, tmp_path):
    loaded = changed({"models.odd": {"architecture": "test_resnet", "options": {"no_such": 1}}})
    grid = expand(read_text("cells: {student: odd, loss: ce}"), "mine", loaded)
    with pytest.raises(InputError, match=r"models\.odd: timm makes no test_resnet"):
        calibrator.calibrate([grid], Workspace(str(tmp_path / "store"), "http://127.0.0.1:1"))
    assert not (tmp_path / "store").exists()


def test_optimizers_of_the_registry_can_be_made_with_their_defaults(registry):
    for name, defaults in registry.optimizers.items():
        assert registry.optimizer_error(Optimizer(name=name, learning_rate=1e-3, options=dict(defaults))) == ""


def test_imagenet_teachers_are_measurements_of_published_weights(profile):
    teacher = profile("imagenet").teacher("ResNet-152")
    assert teacher.is_measurement
    assert teacher.student.architecture == "resnet152"
    assert teacher.student.pretrained.tag == "gluon_in1k"
    assert profile("imagenet").teacher("resnet50.a1_in1k").student.pretrained is not None


def test_digits_teachers_are_trained_cells(profile):
    digits = profile("digits")
    teacher = digits.teacher("ResNet-152")
    assert teacher.epochs == digits.file.teachers.epochs
    assert teacher.teacher is None
    assert teacher.student == digits.student("ResNet-152")
    assert teacher.loss.name == digits.file.teachers.loss


def test_epochs_a_number_means_itself_and_a_name_what_the_profile_says(profile, changed):
    assert [profile("imagenet").epochs(epochs) for epochs in (7, 100, "paper-100", "paper-300")] == [7, 100, 100, 300]
    assert [profile("digits").epochs(epochs) for epochs in (7, 100, "paper-100", "paper-300")] == [7, 100, 10, 30]
    assert changed({"epochs": {"quick": 2}}).epochs("quick") == 2
    with pytest.raises(ValueError, match=r'name of epochs "paper-10"; valid: paper-100, paper-300 \(did'):
        profile("digits").epochs("paper-10")


def test_optimizer_includes_timms_defaults(profile):
    optimizer = profile("digits").optimizer("adamw")
    assert optimizer.options["betas"] == [0.9, 0.999]
    assert "lr" not in optimizer.options


def test_optimizer_options_of_equal_numbers_are_equal(changed):
    one, two, three = (changed({"optimizers.lamb.options": {"eps": eps}}).optimizer("lamb") for eps in (1, 1.0, 0.5))
    assert one == two != three
    assert one.options["eps"] == 1.0
    assert isinstance(one.options["eps"], float)


def test_machine_settings_change_no_cell(changed, profile):
    machine = {"machine.loader_workers": 3, "machine.cohort_size": 2, "machine.cpus_per_cohort": 4}
    other = changed({**machine, "description": "another machine"})
    assert other.machine != profile("digits").machine
    assert other.teacher("ResNet-152").cell_id == profile("digits").teacher("ResNet-152").cell_id


def test_machines_give_some_students_other_settings(changed):
    large = {"students": ["ViT-Large/16", "resnet18"], "accelerator": "H100", "devices_per_cohort": 2}
    profile = changed({"machine.cpus_per_cohort": 3, "machines": {"large": large}})
    usual, other = profile.machines.values()
    assert usual == profile.machine
    assert (other.accelerator, other.devices_per_cohort, other.cpus_per_cohort) == ("H100", 2, 3)
    chosen = {
        name: profile.machines.for_cell(profile.teacher(name)) for name in ("ViT-Large/16", "ViT-Base/16", "resnet18")
    }
    assert chosen == {"ViT-Large/16": other, "ViT-Base/16": usual, "resnet18": other}


def test_order_of_keys_changes_no_cell(tmp_path, registry, profile):
    def backwards(value: object) -> object:
        return {k: backwards(v) for k, v in reversed(value.items())} if isinstance(value, dict) else value

    path = tmp_path / "digits.yaml"
    path.write_text(yaml.safe_dump(backwards(profile("digits").document.data), sort_keys=False))
    other = load_profile(path, registry)
    assert other.teacher("ViT-Base/16").cell_id == profile("digits").teacher("ViT-Base/16").cell_id


def test_find_profile_accepts_names_and_paths(tmp_path):
    assert find_profile("digits").stem == "digits"
    (tmp_path / "profiles").mkdir()
    own = tmp_path / "profiles" / "mine.yaml"
    own.write_text("")
    assert find_profile("mine", tmp_path) == own
    assert find_profile(str(own)) == own
    with pytest.raises(InputError, match=r'^--profile: unknown profile "digit"; valid: .*\(did you mean "digits"\?\)$'):
        find_profile("digit")
    with pytest.raises(InputError, match=r"^--profile: .*nope.yaml: no such file$"):
        find_profile(str(tmp_path / "nope.yaml"))


def test_changed_recipe_gives_other_cells(changed, profile):
    other = changed({"recipe.warmup_epochs": 3})
    assert other.teacher("ResNet-152").cell_id != profile("digits").teacher("ResNet-152").cell_id
