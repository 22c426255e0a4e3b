"""What no line of the code does: unpickle, evaluate, start a shell, import what an input names, listen everywhere."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pld_grid"

# Modules whose whole purpose is to make objects, and thereby run code, from bytes.
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
# Functions that run a text, start a shell, or unpack whatever names an archive has.
NEVER = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput",
    "subprocess.getstatusoutput", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load",
    "yaml.unsafe_load_all", "pandas.read_pickle", "pandas.eval", "numpy.lib.format.read_array", "torch.hub.load",
    "torch.jit.load", "torch.export.load", "tarfile.TarFile.extract", "tarfile.TarFile.extractall",
    "shutil.unpack_archive", "tempfile.mktemp", "asyncio.create_subprocess_shell", "runpy.run_path",
    "runpy.run_module", "importlib.reload", "ssl._create_unverified_context",
}  # fmt: skip
# Safe only with this argument, written out.
ONLY_WITH = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
# Packages whose files are the project's own; `test_a_name_selects_only_what_is_registered` holds what they import.
IMPORTERS = {"train/data/__init__.py", "train/losses/__init__.py", "train/models/__init__.py"}


def findings(source: str, name: str = "x.py") -> list[str]:
    """What is dangerous in a module, as `line: what`."""
    tree = ast.parse(source)
    return [f"{name}:{node.lineno}: {what}" for node, what in _dangers(tree, _aliases(tree), name)]


def _aliases(tree: ast.Module) -> dict[str, str]:
    """Local name -> what it stands for."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                found[each.asname or each.name.split(".")[0]] = each.name if each.asname else each.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    return found


def _dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    return f"{_dotted(node.value, aliases)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def _dangers(tree: ast.Module, aliases: dict[str, str], name: str) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, f"import {n.name}") for n in node.names if n.name.split(".")[0] in UNPICKLERS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNPICKLERS:
            yield node, f"from {node.module} import ..."
        elif isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::", "*", 0o777, 0o666):
            # An asterisk is a host too, but also a wildcard.
            if node.value != "*":
                yield node, f"the constant {node.value!r}"
        elif isinstance(node, ast.Call):
            called = _dotted(node.func, aliases)
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            last = called.rpartition(".")[2]
            if called in NEVER or last in ("extractall", "read_pickle"):
                yield node, called
            if called in ONLY_WITH:
                argument, value = ONLY_WITH[called]
                said = given.get(argument)
                if not (isinstance(said, ast.Constant) and said.value is value):
                    yield node, f"{called} without {argument}={value}"
            shell = given.get("shell")
            if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
                yield node, f"{called} with a shell"
            allowed = given.get("allow_pickle")
            if allowed is not None and not (isinstance(allowed, ast.Constant) and allowed.value is False):
                yield node, f"{called} that may unpickle"
            if called in ("importlib.import_module", "importlib.util.spec_from_file_location"):
                yield from () if name in IMPORTERS and _own(node) else [(node, called)]


def _own(call: ast.Call) -> bool:
    """Whether an import is of a module below the importing one: f"{__name__}.{...}"."""
    first = call.args[0] if call.args else None
    if not isinstance(first, ast.JoinedStr) or len(first.values) < 2:
        return False
    start, dot = first.values[:2]
    return (
        isinstance(start, ast.FormattedValue)
        and isinstance(start.value, ast.Name)
        and start.value.id == "__name__"
        and isinstance(dot, ast.Constant)
        and str(dot.value).startswith(".")
    )


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import cloudpickle as harmless",
        "from pickle import loads",
        "from joblib.numpy_pickle import load",
        "import torch; torch.load(path)",
        "from torch import load; load(path, weights_only=False)",
        "import torch as t; t.load(path, weights_only=safe)",
        "import numpy as np; np.load(path)",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "numpy_like(path, allow_pickle=yes)",
        "import yaml; yaml.load(text, Loader)",
        "from yaml import unsafe_load as read; read(text)",
        "eval(text)",
        "exec(text)",
        "import os; os.system(text)",
        "import subprocess; subprocess.run(text, shell=True)",
        "import subprocess as s; s.Popen(text, shell=flag)",
        "import importlib; importlib.import_module(name)",
        'import importlib; importlib.import_module(f"{name}.x")',
        'import importlib; importlib.import_module(f"{__name__}{name}")',
        "import pandas as pd; pd.read_pickle(path)",
        "import tarfile; tarfile.open(path).extractall(folder)",
        'serve(host="0.0.0.0")',
        "path.chmod(0o777)",
    ],
)
def test_what_is_dangerous_is_found(line: str) -> None:
    assert findings(line, "train/losses/__init__.py"), line


@pytest.mark.parametrize(
    "line",
    [
        "import torch; torch.load(path, weights_only=True)",
        "import numpy as np; np.load(path, allow_pickle=False)",
        "import subprocess; subprocess.run([program, text])",
        'import importlib; importlib.import_module(f"{__name__}.{name}")',
        "model.eval()",
    ],
)
def test_what_is_not_is_let_pass(line: str) -> None:
    assert findings(line, "train/losses/__init__.py") == []


def test_nothing_dangerous_is_in_the_code() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 100
    found = [
        finding
        for module in modules
        for finding in findings(module.read_text(), module.relative_to(PACKAGE).as_posix())
    ]
    assert found == []


def test_a_name_selects_only_what_is_registered() -> None:
    from pld_grid.train import data, losses

    for name in ("os", "../kd", "kd.os", "_base", "_tar", "losses.kd", "", "pld_grid.train.losses.kd", "kd\x00"):
        with pytest.raises(ValueError, match="unknown dataset"):
            data.dataset_module(name)
        with pytest.raises(ValueError, match="unknown loss"):
            losses.loss_class(name)
