"""What every test may use: the catalogue, which takes seconds to load, and the profiles on top of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from pld_grid.catalogue import Catalogue
from pld_grid.grid import Grid, expand
from pld_grid.profile import Profile, load_profile
from pld_grid.reading import read_text

ROOT = Path(__file__).parent.parent
settings.register_profile("pld_grid", derandomize=True, deadline=None, max_examples=50, database=None)
settings.load_profile("pld_grid")


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """Everything that a grid may name: it imports torch and timm, so once for all tests."""
    from pld_grid.train.catalogue import load

    return load()


@pytest.fixture(scope="session")
def profile(catalogue: Catalogue) -> Callable[[str], Profile]:
    """The project's profiles by name."""
    loaded: dict[str, Profile] = {}

    def get(name: str) -> Profile:
        if name not in loaded:
            loaded[name] = load_profile(ROOT / "grids" / "profiles" / f"{name}.yaml", catalogue)
        return loaded[name]

    return get


@pytest.fixture(scope="session")
def grid(profile: Callable[[str], Profile]) -> Callable[..., Grid]:
    """Grids from YAML text, under `digits` unless asked otherwise."""

    def make(text: str, under: str = "digits", *, name: str = "grid", **options: int) -> Grid:
        return expand(read_text(text, f"{name}.yaml"), name, profile(under), **options)

    return make
