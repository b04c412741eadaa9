"""The package's layering: who may import whom, and what importing the package costs.

The rules are those of the design: imports point downwards only, the maths knows torch alone, the explanation side
knows no model, families know nothing of each other. They are checked on the syntax tree, so that imports inside
functions count.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest


PACKAGE = Path(__file__).parent.parent / "bcos_peft"

# From the ground up. A module imports from lines above its own only; a new module takes its place here. The modules of
# a subpackage share the line of the subpackage.
ORDER = [
    {"cli_errors", "config_checks", "files", "hidden_tokens", "hooks", "imports", "inputs", "numerics", "patterns"},
    {"version", "view_text", "words"},
    {"alignment", "cli_inputs", "config_files", "held", "keeping", "linear_map", "spelling"},
    {"config", "functional", "guards", "lora_functional"},
    {"layers", "least_squares"},
    {"families", "quantized_layers", "steady"},
    {"quantization"},
    {"structure"},
    {"application"},
    {"calibration_blocks", "calibration_report", "calibration_variations", "calibration_weights"},
    {"calibration_data", "calibration_head", "calibration_learn"},
    {"calibration_passes", "calibration_texts"},
    {"calibration_distill", "calibration_fit", "calibration_refine", "calibration_scale"},
    {"calibrate"},
    {"quantized_loading", "summary"},
    {"model_card"},
    {"hub_upload"},
    {"hub"},
    {"models"},
    {"registration"},
    {"choice", "input_checks", "mode"},
    {"attribution", "encoding", "generation_attribution"},
    {"verify"},
    {"convert"},
    {"lora_beside", "lora_config", "lora_layer", "lora_vocabulary", "trainable", "training"},
    {"lora_quantized"},
    {"lora_injection"},
    {"lora_portable"},
    {"lora"},
    {"lora_install"},
    {"segments"},
    {"explanation_checks"},
    {"contribution", "generation_checks"},
    {"explanation"},
    {"generation_explanation", "view"},
    {"generation_view", "terminal"},
    {"generation_terminal", "visualize"},
    {"generation_visualize"},
    {"generation_prompts", "labels"},
    {"generation_decoding"},
    {"generation_targets"},
    {"generation"},
    {"explainer"},
    {"evaluation"},
    {"cli"},
    {"__main__"},
]
RANK = {module: rank for rank, line in enumerate(ORDER) for module in line}

# The explanation shows itself, with code that is loaded only then. No other import points upwards.
UPWARDS = {("explanation", "visualize"), ("generation_explanation", "generation_visualize")}

# Modules that need to know nothing of models, with all that they may import from outside the standard library.
OUTSIDE = {
    "config": {"huggingface_hub"},
    "config_checks": set(),
    "files": set(),
    "keeping": set(),
    "words": set(),
    "functional": {"torch"},
    "held": {"torch"},
    "lora_functional": {"torch"},
    "numerics": {"torch"},
    "hooks": {"torch"},
    "imports": set(),
    "layers": {"torch"},
    "patterns": set(),
    "segments": {"numpy"},
    "explanation_checks": {"numpy"},
    "contribution": {"numpy"},
    "explanation": {"numpy"},
    "generation_checks": {"numpy"},
    "generation_explanation": {"numpy"},
    "generation_view": {"numpy"},
    "generation_terminal": {"rich"},
    "generation_visualize": {"jinja2", "rich"},
    "view": {"numpy"},
    "terminal": {"rich"},
    "visualize": {"jinja2", "rich"},
}
EXPLANATION_SIDE = {
    "files", "keeping", "words", "segments", "explanation_checks", "contribution", "explanation", "view", "view_text",
    "terminal", "visualize", "generation_checks", "generation_explanation", "generation_view", "generation_terminal",
    "generation_visualize",
}  # fmt: skip
OPTIONAL = ["bitsandbytes", "captum", "datasets", "IPython", "matplotlib", "peft", "sklearn", "trl"]


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


def top(module: str) -> str:
    return module.split(".")[0]


def test_the_walk_sees_imports():
    assert {"functional", "config", "explanation"} <= MODULES.keys()
    assert "torch" in outside(MODULES["functional"])
    assert "functional" in inside(MODULES["layers"])
    assert "words" in inside(MODULES["contribution"]), "relative imports are resolved"
    assert "families.base" in inside(MODULES["families.bert"])


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module):
    assert top(module) in RANK, f"{module} is new: give it a place in ORDER"
    for other in inside(MODULES[module]):
        if top(other) == top(module) or (module, other) in UPWARDS:
            continue
        assert RANK.get(top(other), -1) < RANK[top(module)], f"{module} imports {other}, which is not below it"


@pytest.mark.parametrize("module", OUTSIDE)
def test_modules_that_know_no_model_import_little(module):
    assert outside(MODULES[module]) <= OUTSIDE[module]


def test_the_explanation_side_knows_no_model_code():
    for module in EXPLANATION_SIDE:
        assert inside(MODULES[module]) <= EXPLANATION_SIDE, module


def test_config_imports_nothing_of_the_package_that_knows_models():
    assert inside(MODULES["config"]) <= {"config_checks", "config_files", "files", "patterns"}


def test_a_family_imports_no_other_family():
    shared = {"families.base", "families.heads"}
    tables = {module for module in MODULES if top(module) == "families" and module != "families"} - shared
    assert len(tables) >= 6
    for module in shared | tables:
        siblings = {other for other in inside(MODULES[module]) if top(other) == "families"} - {module}
        assert siblings <= shared, f"{module} imports {sorted(siblings - shared)}"


def test_the_package_reads_no_private_name_of_another_module():
    """A leading underscore means 'of this module only', also inside the package."""
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("bcos_peft")):
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                private = [name for name in private if not name.endswith("__")]
                assert not private, f"{module} imports {private} from {node.module}"


def test_importing_the_package_is_light():
    """In a new interpreter: this one has imported what the other tests need."""
    code = f"import sys, bcos_peft; print(*[name for name in {OPTIONAL!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=240)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []
