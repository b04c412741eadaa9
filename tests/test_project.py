"""The project's own files: versions and bounds agree, the wheel is complete, the public names are documented."""

import importlib.metadata
import inspect
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from helpers.paths import ROOT
from packaging.requirements import Requirement
from packaging.version import Version

import bcos_peft
from bcos_peft.families import families


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PUBLIC = sorted(name for name in bcos_peft.__all__ if not name.startswith("__"))
DEPENDENCIES = [Requirement(text) for text in PROJECT["dependencies"]]
ONE_RELEASE = {"torch"}  # the same in both constraint files, since each costs gigabytes to download


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def pins(path):
    """Project name: version, of the lines of a constraint file that hold for this Python."""
    requirements = [Requirement(line) for line in read(path).splitlines() if line and not line.startswith("#")]
    return {
        req.name.lower().replace("_", "-"): next(iter(req.specifier)).version
        for req in requirements
        if req.marker is None or req.marker.evaluate()
    }


def test_version_is_the_installed_one():
    assert bcos_peft.__version__ == importlib.metadata.version("bcos-peft")


def test_wheel_is_complete(tmp_path):
    """Built from a copy, with the build backend that is installed: no network."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "bcos_peft", source / "bcos_peft", ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    run = subprocess.run([*build, str(source)], capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr

    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "bcos_peft").rglob("*") if p.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    assert "bcos_peft/py.typed" in files
    assert any(name.endswith(".j2") for name in files)
    assert files <= names
    assert {name.split("/")[0] for name in names} == {"bcos_peft", f"bcos_peft-{bcos_peft.__version__}.dist-info"}


@pytest.mark.parametrize("requirement", DEPENDENCIES, ids=lambda requirement: requirement.name)
def test_declared_range_is_the_range_that_is_tested(requirement):
    name = requirement.name.lower().replace("_", "-")
    (bound,) = requirement.specifier
    assert bound.operator == ">="
    assert requirement.specifier.contains(pins("constraints/dev.txt")[name])
    if name not in ONE_RELEASE:
        assert Version(pins("constraints/oldest.txt")[name]) == Version(bound.version)


def test_extras_can_be_had_under_the_constraints():
    for path in ("constraints/dev.txt", "constraints/oldest.txt"):
        pinned = pins(path)
        for extra in PROJECT["optional-dependencies"].values():
            for requirement in map(Requirement, extra):
                if requirement.name in pinned:
                    assert requirement.specifier.contains(pinned[requirement.name]), (path, requirement)


def test_lint_version_is_the_same_everywhere():
    assert f"rev: v{pins('constraints/dev.txt')['ruff']}" in read(".pre-commit-config.yaml")


def test_readme_starts_with_the_two_commands():
    readme = read("README.md")
    assert readme.startswith("# bcos_peft\n")
    code = re.search(r"```bash\n(.*?)```", readme, re.DOTALL)
    commands = [line.split("#")[0].strip() for line in code[1].splitlines() if line.strip()]
    assert commands == ["make demo", "make test"]
    assert readme[: code.start()].count("\n") <= 12, "what it is in five lines, then the commands"
    assert readme.find("\n## ") == -1 or readme.find("\n## ") > code.start()


def test_readme_shows_the_api():
    assert "```python\n" in read("README.md")
    assert "get_bcos_model(" in read("README.md")


@pytest.mark.parametrize(("page", "count"), [("README.md", 15), ("docs/evidence.md", 40)])
def test_evidence_quotes_the_studies_and_nothing_else(page, count):
    """Every number of the evidence section stands in a table that a study has written."""
    evidence = read(page).partition("<!-- evidence: begin -->")[2].partition("<!-- evidence: end -->")[0]
    quoted = set(re.findall(r"-?\d+\.\d+", re.sub(r"B ?= ?[\d.]+", "", evidence)))
    pages = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "results").glob("*/results.md")))
    printed = set(re.findall(r"-?\d+\.\d+", pages))
    assert len(quoted) > count
    assert quoted <= printed, sorted(quoted - printed)


def test_supported_models_are_the_families():
    section = read("docs/supported_models.md").split("## With a table")[1].split("\n## ")[0]
    rows = re.findall(r"^\|[^|]+\|([^|]+)\|", section, re.MULTILINE)[2:]  # after the head
    listed = [name for row in rows for name in re.findall(r"`(.+?)`", row)]
    assert sorted(listed) == sorted(family.model_type for family in families())


def test_readme_pictures_load_nothing_from_elsewhere():
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", read("README.md"))
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).exists()
        if not picture.endswith(".svg"):
            continue  # pixels load nothing
        loaded = re.findall(r"(?:url\(|href=|src=|@import).{0,60}", read(picture))
        assert [entry for entry in loaded if "//" in entry] == []


def test_changelog_has_unreleased_on_top():
    headings = re.findall(r"^## (.+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"


def test_release_is_named_alike():
    """The newest release of the changelog and the citation are this version, with the same date."""
    version, date = re.search(
        r"^## \[(\d[\w.]*)\] - (\d{4}-\d{2}-\d{2})$", read("CHANGELOG.md"), re.MULTILINE
    ).groups()
    assert version == bcos_peft.__version__
    citation = read("CITATION.cff")
    assert f"\nversion: {version}\n" in citation
    assert f"\ndate-released: {date}\n" in citation


def test_make_targets_are_described():
    makefile = read("Makefile")
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split()
    described = re.findall(r"^([a-z-]+):.*?## .+$", makefile, re.MULTILINE)
    assert sorted(phony) == sorted(described)
    for target in re.findall(r"^step [a-z-]+ make ([a-z-]+)", read(".ci/run"), re.MULTILINE):
        assert target in phony


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_has_a_docstring_with_an_example(name):
    docstring = inspect.getdoc(getattr(bcos_peft, name)) or ""
    assert re.search(r"^Examples?:", docstring, re.MULTILINE), f"{name}: no Example section"
    assert ">>> " in docstring or "```python" in docstring


def test_pages_of_the_site_are_in_its_navigation():
    listed = set(re.findall(r"[:-] ([\w/]+\.md)$", read("mkdocs.yml"), re.MULTILINE))
    assert listed == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


def test_no_path_of_a_machine():
    """Files of the project name no home folder or checkout of whoever wrote them."""
    names = ["README.md", "Makefile", "pyproject.toml", "setup.cfg", "mkdocs.yml", ".ci/run"]
    files = [ROOT / name for name in names]
    for folder in ("bcos_peft", "tests", "docs", "examples", "benchmarks", "constraints"):
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".md", ".txt", ".j2", ".json"}]
    pattern = re.compile(r"(?<![\w.])/(?:home|Users|root|work)/\w")
    guilty = [path for path in files if pattern.search(path.read_text(encoding="utf-8"))]
    assert guilty == []
