"""Model options cannot select what timm loads: parameters of timm's factory are rejected."""

import inspect

import pytest
import timm
from corpus.names import with_option

from pld_grid.experiment.profile import load_profile
from pld_grid.util.errors import InputError


def test_parameters_of_timms_factory_are_rejected(tmp_path, registry):
    factory = set(inspect.signature(timm.create_model).parameters) - {"kwargs"}
    assert {"pretrained", "pretrained_cfg", "checkpoint_path", "cache_dir"} <= factory <= registry.factory_options
    path = tmp_path / "own.yaml"
    for option in sorted(registry.factory_options):
        path.write_text(with_option(f"{option}: x"))
        with pytest.raises(InputError, match=rf'^.*own.yaml:23: models.Mine: "{option}" is no option of a model'):
            load_profile(path, registry)


@pytest.mark.parametrize("value", ["a/b", "/etc/passwd", "http://x", "hf-hub:x", "..\\\\x", "a b", "~", "$HOME"])
def test_option_values_that_are_paths_or_urls_are_rejected(tmp_path, registry, value):
    path = tmp_path / "own.yaml"
    for option in (f'act_layer: "{value}"', f'norm_layer: [a, "{value}"]', f'block: {{"{value}": 1}}'):
        path.write_text(with_option(option))
        with pytest.raises(InputError, match="is no plain word; options are no paths or addresses"):
            load_profile(path, registry)
