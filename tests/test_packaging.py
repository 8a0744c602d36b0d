"""What is asked of other packages: floors, and that they are what is tested."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Of these no lower version is tested: torch has no lower build for processors alone
# at hand, the others are tools whose output the checks hold to.
UNTESTED = {"torch", "build", "mypy", "ruff", "pytest-cov", "types-pyyaml"}
UNTESTED |= {"matplotlib", "myst-parser", "numpydoc", "pydata-sphinx-theme", "sphinx"}
UNTESTED |= {"sphinx-click", "sphinx-copybutton", "sphinx-design", "sphinx-gallery"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def asked() -> dict[str, set[str]]:
    """By package, the conditions on its version in setup.cfg."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    parts = [config["options"]["install_requires"]]
    parts += list(config["options.extras_require"].values())
    found: dict[str, set[str]] = {}
    for line in "\n".join(parts).split("\n"):
        if line.strip():
            name, condition = re.findall(r"^\s*([\w-]+)\s*(.*)$", line)[0]
            found.setdefault(canonical(name), set()).add(condition.replace(" ", ""))
    return found


def pins(page: str) -> dict[str, str]:
    lines = (ROOT / page).read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), page
    return {canonical(name): version for name, version in pairs}


def numbers(version: str) -> list[int]:
    found = [int(number) for number in re.findall(r"\d+", version)]
    while found and found[-1] == 0:
        found.pop()
    return found


def test_every_dependency_has_one_floor_wherever_it_is_named() -> None:
    for name, conditions in asked().items():
        assert len(conditions) == 1, (name, conditions)
        assert re.fullmatch(r"(>=|==)[\d.]+", min(conditions)), name


@pytest.mark.parametrize("name", sorted(asked()))
def test_the_lowest_versions_that_are_tested_are_the_floors(name: str) -> None:
    (condition,) = asked()[name]
    if name in UNTESTED or condition.startswith("=="):
        return
    assert numbers(pins("constraints-lowest.txt")[name]) == numbers(condition)


@pytest.mark.parametrize("name", sorted(asked()))
def test_the_versions_that_are_worked_with_are_allowed(name: str) -> None:
    (condition,) = asked()[name]
    assert numbers(pins("constraints.txt")[name]) >= numbers(condition)


def test_the_quick_part_of_the_suite_exists() -> None:
    if not (ROOT / ".ci" / "quick").exists():
        assert not (ROOT / "README.md").exists()  # tests of the wheel, by themselves
        return
    for word in (ROOT / ".ci" / "quick").read_text().split():
        path, _, name = word.removeprefix("--deselect=").partition("::")
        assert (ROOT / path).exists(), path
        assert (
            not name or f"def {name.partition('[')[0]}" in (ROOT / path).read_text()
        ), name
