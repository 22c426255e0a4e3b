"""Name the code of a component (a loss, dataset or model), so that a changed formula makes another cell.

A component that ships with the project declares `REVISION`, a number that rises when its results change; golden values
in the tests hold it. The file of any other component is named by a fingerprint of its source.
"""

import ast
import hashlib
import inspect
from types import ModuleType


def identify_code(module: ModuleType) -> str:
    """Return `revision N` for a module that declares `REVISION = N`, or `source FINGERPRINT`.

    Raises:
        OSError: The module declares no revision and its source cannot be read.
    """
    revision = getattr(module, "REVISION", None)
    return f"revision {revision}" if revision is not None else f"source {fingerprint(inspect.getsource(module))}"


def fingerprint(source: str) -> str:
    """Return 16 hex digits of the SHA-256 over Python source, without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and _docstring(node):
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None
