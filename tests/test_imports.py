"""The package's layering: who may import whom, and what importing the package costs.

Folders have an order, and imports point downwards only. They are read off the syntax tree, so that imports inside
functions count.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT


PACKAGE = ROOT / "bcos_peft"

# From the ground up: what stands in a folder imports from the folders before it only, and from its own.
ORDER = [
    "_utils", "version", "config", "nn", "operations", "families", "discovery", "text", "models", "attribution",
    "calibration", "convert", "training", "lora.method", "lora", "explanation.views", "explanation",
    "similarity.views", "similarity", "evaluation.questions", "evaluation.data", "evaluation.methods",
    "evaluation.metrics", "evaluation.results", "evaluation.similarity", "evaluation.human", "evaluation", "cli",
    "__main__",
]  # fmt: skip

# What these folders may import from outside of the package and the standard library.
OUTSIDE = {
    "_utils": {"accelerate", "huggingface_hub", "numpy", "torch", "transformers"},
    "config": set(),
    "nn": {"torch", "bitsandbytes", "transformers"},
    "operations": {"torch"},
    "text": {"numpy", "transformers", "torch"},
    "explanation.views": {"jinja2", "numpy", "rich"},
    "similarity.views": {"jinja2", "matplotlib", "numpy", "rich"},
}
OPTIONAL = ["bitsandbytes", "captum", "datasets", "IPython", "matplotlib", "peft", "sentence_transformers"]
OPTIONAL += ["sklearn", "trl"]


def module_names() -> dict[str, Path]:
    """Dotted name inside the package, without the package's own name, of every file but the top `__init__`."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts:
            names[".".join(parts)] = path
    return names


MODULES = module_names()


def imports(path: Path) -> set[str]:
    """Absolute dotted names that a file imports, wherever the statement stands; imports for type checkers left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["bcos_peft", *path.relative_to(PACKAGE).parent.parts]
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            # `from package import module` names a module, `from module import thing` a thing: keep what exists.
            found.update(f"{source}.{a.name}" if is_module(f"{source}.{a.name}") else source for a in node.names)
    return found


def is_module(name: str) -> bool:
    return name.removeprefix("bcos_peft.") in MODULES


def inside(path: Path) -> set[str]:
    """Modules of the package that a file imports."""
    return {name.removeprefix("bcos_peft.") for name in imports(path) if name.startswith("bcos_peft.")}


def outside(path: Path) -> set[str]:
    """Third-party distributions that a file imports, by their top-level module."""
    tops = {name.split(".")[0] for name in imports(path)}
    return tops - set(sys.stdlib_module_names) - {"bcos_peft"}


def is_folder(module: str) -> bool:
    return MODULES[module.removeprefix("bcos_peft.")].name == "__init__.py"


def home(module: str) -> str:
    """The folder that a module stands in; a folder's `__init__` stands in the folder itself."""
    module = module.removeprefix("bcos_peft.")
    return module if module in MODULES and is_folder(module) else module.rpartition(".")[0]


def imported_names(path: Path):
    """Modules of the package that a file imports from, with the names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bcos_peft."):
            yield node.module, [alias.name for alias in node.names]


def folder(module: str) -> str:
    """The folder of `ORDER` in which a module stands."""
    parts = module.split(".")
    found = (".".join(parts[:depth]) for depth in range(len(parts), 0, -1))
    return next((name for name in found if name in ORDER), "")


def test_the_walk_sees_imports():
    assert {"nn.functional", "config", "explanation.explanation"} <= MODULES.keys()
    assert "torch" in outside(MODULES["nn.functional"])
    assert "nn.functional" in inside(MODULES["nn.layers"])
    assert "explanation" in inside(MODULES["cli.explain"]), "imports inside functions count"
    assert folder("evaluation.metrics.base") == "evaluation.metrics"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module):
    assert folder(module), f"the folder of {module} is new: give it a place in ORDER"
    for other in inside(MODULES[module]):
        below = ORDER.index(folder(other)) <= ORDER.index(folder(module))
        assert below, f"{module} imports {other}, which stands above it"


def test_no_circles():
    """Inside folders, too: modules can be ordered so that each imports earlier ones only."""
    left = {module: inside(path) - {module} for module, path in MODULES.items()}
    while free := [module for module, needed in left.items() if not needed & left.keys()]:
        for module in free:
            del left[module]
    assert not left


@pytest.mark.parametrize("module", [module for module in MODULES if folder(module) in OUTSIDE])
def test_low_folders_import_little(module):
    assert outside(MODULES[module]) <= OUTSIDE[folder(module)]


def test_tables_are_data():
    assert inside(MODULES["families.tables"]) == {"families.base"}
    assert outside(MODULES["families.tables"]) == outside(MODULES["families.base"]) == set()


@pytest.mark.parametrize("module", MODULES)
def test_other_folders_are_asked_for_what_they_offer(module):
    """Imports from another folder stop at its `__init__`. `_utils` is for everybody, and has no list."""
    for source, names in imported_names(MODULES[module]):
        if is_module(source) and not is_folder(source) and home(source) not in (home(module), "", "_utils"):
            raise AssertionError(f"{module} reaches into {source} for {names}")


def test_private_names_stay_in_their_folder():
    """A leading underscore means 'of this folder only'."""
    for module, path in MODULES.items():
        for source, names in imported_names(path):
            private = [name for name in names if re.match("_[^_]", name)]
            assert not private or home(source) == home(module), f"{module} imports {private} from {source}"


def test_importing_the_package_is_light():
    """In a new interpreter: this one has imported what the other tests need."""
    code = f"import sys, bcos_peft; print(*[name for name in {OPTIONAL!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=240)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []
