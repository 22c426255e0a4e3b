"""A model's options can only describe it: whatever timm's factory itself takes is refused, as timm has it now."""

import inspect
from pathlib import Path

import pytest
import timm
from corpus.names import with_option

from pld_grid.catalogue import Catalogue
from pld_grid.errors import InputError
from pld_grid.profile import load_profile


def test_every_keyword_of_timms_factory_is_refused(tmp_path: Path, catalogue: Catalogue) -> None:
    factory = set(inspect.signature(timm.create_model).parameters) - {"kwargs"}
    assert {"pretrained", "pretrained_cfg", "checkpoint_path", "cache_dir"} <= factory <= catalogue.factory_options
    path = tmp_path / "own.yaml"
    for option in sorted(catalogue.factory_options):
        path.write_text(with_option(f"{option}: x"))
        with pytest.raises(InputError, match=rf'^.*own.yaml:23: models.Mine: "{option}" is no option of a model'):
            load_profile(path, catalogue)


@pytest.mark.parametrize("value", ["a/b", "/etc/passwd", "http://x", "hf-hub:x", "..\\\\x", "a b", "~", "$HOME"])
def test_no_option_is_a_path_or_an_address(tmp_path: Path, catalogue: Catalogue, value: str) -> None:
    path = tmp_path / "own.yaml"
    for option in (f'act_layer: "{value}"', f'norm_layer: [a, "{value}"]', f'block: {{"{value}": 1}}'):
        path.write_text(with_option(option))
        with pytest.raises(InputError, match="is no plain word; options are no paths or addresses"):
            load_profile(path, catalogue)
