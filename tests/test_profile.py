import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pld_grid import api
from pld_grid.catalogue import Catalogue
from pld_grid.errors import InputError
from pld_grid.grid import expand
from pld_grid.profile import Profile, find_profile, load_profile
from pld_grid.reading import read_file, read_text
from pld_grid.spec import Optimizer

ROOT = Path(__file__).parent.parent
PROFILES = sorted((ROOT / "grids" / "profiles").glob("*.yaml"))
Load = Callable[[str], Profile]


@pytest.fixture
def changed(tmp_path: Path, catalogue: Catalogue) -> Callable[..., Profile]:
    """The digits profile with keys replaced: `changed({"machine.loader_workers": 3})`."""

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
        return load_profile(file, catalogue)

    return load


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_every_profile_resolves_all_it_names(path: Path, profile: Load) -> None:
    loaded = profile(path.stem)
    assert loaded.name == path.stem
    assert loaded.dataset.name in loaded.catalogue.datasets
    for name in loaded.file.models:
        assert loaded.student(name).pretrained is None
    for name in loaded.file.optimizers:
        assert loaded.optimizer(name).options.keys() == loaded.catalogue.optimizers[name].keys()
    assert loaded.optimizer(None).name == loaded.file.optimizer


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_every_profiles_models_can_be_made(path: Path, profile: Load) -> None:
    loaded = profile(path.stem)
    loaded.check_models(loaded.student(name) for name in loaded.file.models)


def test_only_models_that_are_needed_are_tried(changed: Callable[..., Profile]) -> None:
    odd = {"architecture": "test_resnet", "options": {"no_such": 1}}
    loaded = changed({"models.odd": odd})
    loaded.check_models(loaded.student(name) for name in loaded.file.models if name != "odd")
    with pytest.raises(InputError, match=r"digits\.yaml:\d+: models\.odd: timm makes no test_resnet of these options"):
        loaded.check_models([loaded.student("odd")])


def test_nothing_is_measured_of_a_model_that_cannot_be_made(changed: Callable[..., Profile], tmp_path: Path) -> None:
    loaded = changed({"models.odd": {"architecture": "test_resnet", "options": {"no_such": 1}}})
    grid = expand(read_text("cells: {student: odd, loss: ce}"), "mine", loaded)
    with pytest.raises(InputError, match=r"models\.odd: timm makes no test_resnet"):
        api.calibrate([grid], api.Workspace(str(tmp_path / "store"), "http://127.0.0.1:1"))
    assert not (tmp_path / "store").exists()


def test_every_optimizer_is_made_with_its_own_defaults(catalogue: Catalogue) -> None:
    for name, defaults in catalogue.optimizers.items():
        assert catalogue.optimizer_error(Optimizer(name=name, learning_rate=1e-3, options=dict(defaults))) == ""


def test_the_paper_scale_measures_published_teachers(profile: Load) -> None:
    teacher = profile("imagenet").teacher("ResNet-152")
    assert teacher.is_measurement
    assert teacher.student.architecture == "resnet152"
    assert teacher.student.pretrained is not None
    assert teacher.student.pretrained.tag == "gluon_in1k"
    assert profile("imagenet").teacher("resnet50.a1_in1k").student.pretrained is not None


def test_trained_teachers_are_cells_of_their_own(profile: Load) -> None:
    digits = profile("digits")
    teacher = digits.teacher("ResNet-152")
    assert teacher.epochs == digits.file.teachers.epochs
    assert teacher.teacher is None
    assert teacher.student == digits.student("ResNet-152")
    assert teacher.loss.name == digits.file.teachers.loss


def test_epochs_stand_for_the_papers(profile: Load) -> None:
    assert profile("imagenet").epochs(100) == 100
    assert profile("digits").epochs(100) == profile("digits").file.epochs[100]
    assert profile("digits").epochs(7) == 7


def test_timm_defaults_are_part_of_an_optimizer(profile: Load) -> None:
    optimizer = profile("digits").optimizer("adamw")
    assert optimizer.options["betas"] == [0.9, 0.999]
    assert "lr" not in optimizer.options


def test_options_are_the_same_number_however_written(changed: Callable[..., Profile]) -> None:
    one, two, three = (changed({"optimizers.lamb.options": {"eps": eps}}).optimizer("lamb") for eps in (1, 1.0, 0.5))
    assert one == two != three
    assert one.options["eps"] == 1.0
    assert isinstance(one.options["eps"], float)


def test_machine_settings_do_not_name_cells(changed: Callable[..., Profile], profile: Load) -> None:
    other = changed(
        {
            "machine.loader_workers": 3,
            "machine.cohort_size": 2,
            "machine.cpus_per_cohort": 4,
            "description": "elsewhere",
        }
    )
    assert other.machine != profile("digits").machine
    assert other.teacher("ResNet-152").cell_id == profile("digits").teacher("ResNet-152").cell_id


def test_some_students_may_run_elsewhere(changed: Callable[..., Profile]) -> None:
    large = {"students": ["ViT-Large/16", "resnet18"], "accelerator": "H100", "devices_per_cohort": 2}
    profile = changed({"machine.cpus_per_cohort": 3, "machines": {"large": large}})
    usual, other = profile.machines.values()
    assert usual == profile.machine
    assert (other.accelerator, other.devices_per_cohort, other.cpus_per_cohort) == ("H100", 2, 3)
    chosen = {name: profile.machines.of(profile.teacher(name)) for name in ("ViT-Large/16", "ViT-Base/16", "resnet18")}
    assert chosen == {"ViT-Large/16": other, "ViT-Base/16": usual, "resnet18": other}


@pytest.mark.parametrize(
    ("machines", "message"),
    [
        (
            {"a": {"students": ["ViT-Huge/16"]}},
            r'machines\.a\.students\[0\].*unknown model "ViT-Huge/16".*did you mean',
        ),
        ({"a": {"students": ["resnet18"]}, "b": {"students": ["resnet18"]}}, r'"resnet18" is in machines\.a already'),
        ({"a": {"students": []}}, r"machines\.a\.students"),
        ({"a": {"accelerator": "H100"}}, 'missing key "students"'),
        ({"a": {"students": ["resnet18"], "gpus": 1}}, 'unknown key "gpus".*gpus_per_cohort'),
    ],
)
def test_bad_machines_are_refused(changed: Callable[..., Profile], machines: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed({"machines": machines})


def test_key_order_does_not_name_cells(tmp_path: Path, catalogue: Catalogue, profile: Load) -> None:
    def backwards(value: object) -> object:
        return {k: backwards(v) for k, v in reversed(value.items())} if isinstance(value, dict) else value

    path = tmp_path / "digits.yaml"
    path.write_text(yaml.safe_dump(backwards(profile("digits").document.data), sort_keys=False))
    other = load_profile(path, catalogue)
    assert other.teacher("ViT-Base/16").cell_id == profile("digits").teacher("ViT-Base/16").cell_id


def test_recipe_changes_name_other_cells(changed: Callable[..., Profile], profile: Load) -> None:
    other = changed({"recipe.warmup_epochs": 3})
    assert other.teacher("ResNet-152").cell_id != profile("digits").teacher("ResNet-152").cell_id


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ResNet-51", r'unknown model "ResNet-51"; .*\(did you mean "ResNet-50"\?\)'),
        ("vit_tiny_patch16_225", r'unknown model "vit_tiny_patch16_225"; .*\(did you mean "vit_tiny_patch16_224"\?\)'),
        ("resnet50.a1_in1k", 'write "resnet50", without the tag "a1_in1k"'),
    ],
)
def test_unknown_students(profile: Load, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        profile("digits").student(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ResNet-153", r'unknown model "ResNet-153"; .*\(did you mean "ResNet-152"\?\)'),
        ("resnet50", r'teacher "resnet50" needs a tag of published weights, as in "resnet50.TAG"; timm has: a1_in1k, '),
        ("resnet50.a1_in1", r'timm has no weights "a1_in1" for resnet50; valid: .*\(did you mean "a1_in1k"\?\)'),
        (
            "vit_base_patch16_224.augreg_in21k",
            "vit_base_patch16_224.augreg_in21k knows 21843 classes, the dataset has 1000",
        ),
        ("ResNet-50", '"ResNet-50" has no published weights in profile imagenet, so it cannot teach'),
    ],
)
def test_teachers_that_cannot_teach(profile: Load, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        profile("imagenet").teacher(name)


def test_profiles_are_found_by_name_and_path(tmp_path: Path) -> None:
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


def test_every_optimizer_of_the_catalogue_fits_a_cell(changed: Callable[..., Profile], catalogue: Catalogue) -> None:
    names = {name: {"learning_rate": 0.1} for name in catalogue.optimizers}
    loaded = changed({"optimizers": names})
    for name in names:
        assert loaded.optimizer(name).name == name
