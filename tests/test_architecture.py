"""The structure of the package and the statements of the documentation about it."""

import ast
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from paths import ROOT

PACKAGE = ROOT / "pld_grid"
MODULES = sorted(PACKAGE.rglob("*.py"))
PAGES = [ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "docker/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
MAX_LAYERS, MAX_FUNCTION_LINES, MAX_MODULE_LINES = 10, 60, 400
# One thing as data (experiment) and the code that trains or computes it (train).
SHARED_NAMES = {"cohort", "metrics"}


def contract_layers() -> list[set[str]]:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = configuration["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [set(layer.split(" | ")) for layer in layers]


def test_architecture_page_lists_the_layers_of_the_contract():
    rows = re.findall(r"^\| *(\d+) \| (.+?) \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    assert [set(re.findall(r"`(pld_grid\.\w+)`", cell)) for _, cell in rows] == contract_layers()


def test_contract_covers_every_package_in_few_layers():
    packages = {f"pld_grid.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    assert set().union(*contract_layers()) == packages
    assert len(contract_layers()) <= MAX_LAYERS


def test_top_level_has_no_modules_of_its_own():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_module_names_are_unique_within_the_package():
    names = Counter(path.stem for path in MODULES if not path.stem.startswith("_"))
    assert {name for name, count in names.items() if count > 1} <= SHARED_NAMES


def test_public_functions_share_no_name_with_a_submodule():
    for folder in {path.parent for path in MODULES}:
        submodules = {path.stem for path in folder.glob("*.py")}
        submodules |= {path.parent.name for path in folder.glob("*/__init__.py")}
        tree = ast.parse((folder / "__init__.py").read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        for node in imports:
            # `from package import submodule` exports the submodule itself.
            package = Path(*str(node.module).split("."))
            names |= {alias.asname or alias.name for alias in node.names if ROOT / package != folder}
        assert not names & submodules, folder


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_are_short(path):
    assert len(path.read_text().splitlines()) <= MAX_MODULE_LINES
    lengths = {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions(path)}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize(
    ("private", "adapter"),
    [
        (r"ray\.(_\w+|experimental|tune\.registry|tune\.execution)", "orchestrate/ray_internals.py"),
        (r"mlflow\.(_\w+|store)", "track/mlflow_internals.py"),
    ],
)
def test_private_parts_of_libraries_are_used_in_one_module(private, adapter):
    statement = re.compile(rf"^\s*(from|import) {private}", re.MULTILINE)
    users = {str(path.relative_to(PACKAGE)) for path in MODULES if statement.search(path.read_text())}
    assert users == {adapter}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_link_to_files_and_headings_that_exist(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}
            assert heading in anchors, target


def test_pages_name_tests_that_exist():
    """`file::test` names one test; `::test` after it another of the same file, `...` the beginning of one."""
    definitions: dict[str, set[str]] = defaultdict(set)
    for path in (ROOT / "tests").rglob("*.py"):
        definitions[path.name] |= {f.name for f in functions(path)}
    for page in PAGES:
        for line in page.read_text().splitlines():
            file = ""
            for mention in re.findall(r"`((?:[\w/]*\w\.py)?(?:::\w+(?:\.\.\.)?)?)`", line):
                name, _, test = mention.partition("::")
                file = Path(name).name if name else file
                if not file.startswith("test_"):
                    continue
                assert file in definitions, (page.name, mention)
                names = definitions[file]
                prefix = "".join(takewhile(lambda c: c != ".", test))
                exists = test in names or (test.endswith("...") and any(each.startswith(prefix) for each in names))
                assert not test or exists, (page.name, mention)
