"""A folder's `__init__` is the list of its public names: they are documented, and everything else is private."""

import ast
import importlib
import re
from pathlib import Path

import pytest
from helpers.paths import ROOT


pytestmark = pytest.mark.newest  # what a folder offers may need packages that the oldest environment lacks

PACKAGE = ROOT / "bcos_peft"
REFERENCE = ROOT / "docs" / "reference"


def folders() -> dict[str, Path]:
    """Dotted name, below the package, of every folder that offers something: `_utils` is private by its name."""
    found = {
        ".".join(path.parent.relative_to(PACKAGE).parts): path.parent
        for path in sorted(PACKAGE.rglob("__init__.py"))
        if not any(part.startswith("_") for part in path.parent.relative_to(PACKAGE).parts)
    }
    return {name: path for name, path in found.items() if name}


FOLDERS = folders()


def offered(folder: str) -> list[str]:
    return list(importlib.import_module(f"bcos_peft.{folder}").__all__)


def modules(folder: str) -> dict[str, Path]:
    return {path.stem: path for path in FOLDERS[folder].glob("*.py") if path.stem != "__init__"}


def definitions(path: Path) -> set[str]:
    """Functions, classes and constants of a module."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def page_of(folder: str) -> Path:
    place = folder.replace(".", "/")
    index = REFERENCE / place / "index.md"
    return index if index.exists() else REFERENCE / f"{place}.md"


def test_the_root_is_small():
    assert len(list(PACKAGE.glob("*.py"))) <= 7
    assert all(len(list(path.glob("*.py"))) <= 17 for path in FOLDERS.values())


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_list_is_right(folder):
    names = offered(folder)
    assert len(set(names)) == len(names)
    module = importlib.import_module(f"bcos_peft.{folder}")
    for name in names:
        getattr(module, name)
    assert not set(names) & modules(folder).keys(), "a name that is a module's too is one or the other, by chance"
    assert not any(name.startswith("_") for name in names)


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_not_offered_is_private(folder):
    public = {name for path in modules(folder).values() for name in definitions(path) if not name.startswith("_")}
    assert public <= set(offered(folder))


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder != "cli"])  # its page has commands
def test_every_name_is_in_the_reference(folder):
    """On the page of its folder. `bcos_peft.evaluation` hands on names of its subfolders, which have pages."""
    pages = [page_of(folder)]
    if folder == "evaluation":
        pages = list((REFERENCE / "evaluation").glob("*.md"))
    found = [
        name
        for page in pages
        for name in re.findall(r"^::: bcos_peft\.[\w.]*?(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert set(offered(folder)) <= set(found)
    if folder != "evaluation":
        assert sorted(found) == sorted(offered(folder)), "each name once, and nothing else"


def test_what_users_import_first_is_offered_by_folders():
    import bcos_peft

    known = {name for folder in FOLDERS for name in offered(folder)} | {"BcosConfig", "get_bcos_model", "__version__"}
    assert set(bcos_peft.__all__) <= known


def imports_of(text: str):
    """Modules of the package that a text imports from, with the names: code, code blocks and docstring examples."""
    pattern = r"^[ >.]*from bcos_peft\.([\w.]+) import (\([^)]*\)|[^#\n]+)"
    for module, names in re.findall(pattern, text, re.MULTILINE):
        yield module, [name.split(" as ")[0].strip() for name in names.strip("()").split(",") if name.strip()]


READERS = [
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "docs").glob("*.py"),
    *(ROOT / "examples").glob("*.*"),
    *(ROOT / "benchmarks").glob("*.*"),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]


@pytest.mark.parametrize("path", READERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_readers_import_from_folders(path):
    text = path.read_text(encoding="utf-8")
    for module, names in imports_of(text):
        assert module in FOLDERS, f"{path} reaches into bcos_peft.{module}"
        assert set(names) <= set(offered(module)), f"bcos_peft.{module} does not offer {names}"
    for target in re.findall(r"^::: bcos_peft\.([\w.]+)$", text, re.MULTILINE):
        folder, _, name = target.rpartition(".")
        assert not folder or name in offered(folder), target


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_docstring_examples_import_from_folders(path):
    examples = "\n".join(re.findall(r"^ *>>> .*$", path.read_text(encoding="utf-8"), re.MULTILINE))
    for module, names in imports_of(examples):
        if module.startswith("_utils.") and "_utils" in path.parts:
            continue  # its own examples
        assert module in FOLDERS, f"reaches into bcos_peft.{module}"
        assert set(names) <= set(offered(module))
