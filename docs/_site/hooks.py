"""Complete the documentation's site with what lives outside of docs/.

Pages of the repository's root and other folders stay where a git host shows them and become pages of the site too. A
link to any other file of the repository leads to a copy of it, because the site may stand anywhere. The notebook is
shown with the outputs that are stored in it.
"""

import html
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent.parent
# Files of the repository, and the pages that they are in the site.
PAGES = {
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docker/README.md": "docker.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "reports/landscapes/README.md": "landscapes.md",
    "docs/notebook.ipynb": "notebook.md",
}
# A report's page for git hosts has the same content as its HTML page.
REPORTS = {"reports/digits/README.md": "reports/digits/index.html"}
COPIES = "repository"
# Code, which stays as it is, or a link to a file: its mark of an image, text, target and heading.
_CODE_OR_LINK = re.compile(
    r"^(?:```|~~~).*?^(?:```|~~~)"
    r"|(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|mailto:|data:|#)([^)\s#]+)(#[^)\s]*)?\)"
    r"|``.+?``|`[^`\n]*`",
    re.MULTILINE | re.DOTALL,
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of other folders, the notebook's page, and the files that pages link to."""
    for source, uri in PAGES.items():
        path = ROOT / source
        text = notebook_page(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
        files.append(File.generated(config, uri, content=text))
    for file in [each for each in files if each.is_documentation_page()]:
        for _, _, target, _ in _CODE_OR_LINK.findall(file.content_string):
            path = _find(_source(file.src_uri), target) if target else None
            if path and _is_copied(path) and files.get_file_from_path(f"{COPIES}/{path}") is None:
                files.append(File.generated(config, f"{COPIES}/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to files outside of docs/ to their pages and copies in the site; leave code as it is."""
    source, here = _source(page.file.src_uri), posixpath.dirname(page.file.src_uri)

    def replace(link: re.Match[str]) -> str:
        mark, text, target, heading = link[1], link[2], link[3], link[4] or ""
        path = _find(source, target) if target else None
        if path is None:
            return link[0]
        if path in PAGES:
            uri = PAGES[path]
        elif _is_copied(path):
            uri = f"{COPIES}/{path}"
        elif (ROOT / path).is_dir():
            return text
        else:
            uri = path.removeprefix("docs/")
        return f"{mark}[{text}]({posixpath.relpath(uri, here or '.')}{heading})"

    return _CODE_OR_LINK.sub(replace, markdown)


def notebook_page(path: Path) -> str:
    """Return a notebook as Markdown with its stored outputs."""
    blocks = [f"[Download this notebook]({path.name})"]
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        blocks.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        blocks += _outputs(cell.get("outputs", []))
    # The title comes first.
    return "\n\n".join([blocks[1], blocks[0], *blocks[2:]]) + "\n"


def _outputs(outputs: list[dict[str, Any]]) -> list[str]:
    """Return a cell's outputs as Markdown; lines of text that follow each other are one block."""
    blocks: list[str] = []
    lines: list[str] = []
    for output in [*outputs, {}]:
        data = output.get("data", {})
        markup = "".join(data.get("text/html", ""))
        if markup.startswith("<pre"):
            lines.append(html.unescape(re.sub(r"<[^>]+>", "", markup)).strip())
            continue
        if "text/html" in data and not markup:
            continue
        text = "".join(output.get("text", ""))
        if not markup and "image/png" not in data and (text or "text/plain" in data):
            lines.append((text or "".join(data["text/plain"])).rstrip())
            continue
        if lines:
            blocks.append("```text\n" + "\n".join(lines) + "\n```")
            lines = []
        if "image/png" in data:
            blocks.append(f"![Output of the cell above](data:image/png;base64,{''.join(data['image/png']).strip()})")
        elif markup:
            table = re.sub(r"<style.*?</style>|\n\s*", "", markup, flags=re.DOTALL)
            blocks.append(f'<div class="notebook-output">{table}</div>')
    return blocks


def _source(uri: str) -> str:
    """Return the file of the repository that a page is made from."""
    return next((source for source, page in PAGES.items() if page == uri), f"docs/{uri}")


def _find(source: str, target: str) -> str | None:
    """Return the file of the repository that a link means, or None if there is none."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    path = REPORTS.get(path, path)
    return path if not path.startswith("..") and (ROOT / path).exists() else None


def _is_copied(path: str) -> bool:
    return path not in PAGES and not path.startswith("docs/") and (ROOT / path).is_file()
