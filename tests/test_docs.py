"""What the documents say is true: pages that are generated, code that is shown."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
import shlex
import types
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path

import click
import pytest

from ensembles.embeddings import POOLINGS, WEIGHTINGS
from ensembles.predictions import COMBINERS
from ensembles.rules.builtin import RULES
from ensembles.selection import SELECTIONS
from ensembles_cli.main import cli

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PROMPT = "$ "


def page_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(page: Path, *languages: str) -> list[str]:
    """Contents of the fenced blocks in these languages, in their order."""
    text = page_of(page)
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language in languages]


def shown_commands(page: Path) -> list[str]:
    """Lines of shell blocks that call ``ensemble``, continued ones joined."""
    text = "\n".join(blocks(page, "bash", "console", "sh", "shell"))
    lines = text.replace("\\\n", " ").splitlines()
    lines = [line.strip().removeprefix(PROMPT) for line in lines]
    return [line for line in lines if line.startswith("ensemble ")]


def script(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_methods_is_current() -> None:
    written = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert written == script(ROOT / "docs" / "make_methods.py").methods(), "make docs"


def test_the_page_of_methods_has_an_entry_for_all_that_is_registered() -> None:
    written = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", written, re.M | re.S))
    names = {
        "Rules": [*RULES],
        "Combiners": [*COMBINERS],
        "Poolings": [*POOLINGS],
        "Weightings": [*WEIGHTINGS],
        "Selections": [*SELECTIONS],
    }
    for title, known in names.items():
        assert re.findall(r"^### (\w+)$", parts[title], re.M) == known
        if title != "Selections":
            assert re.findall(r"^\| `(\w+)` \|", parts[title], re.M) == known


# Fine-tunes as the demo leaves them, of two steps each.
DEMO = """
from pathlib import Path
from ensembles_cli.demo.encoder import Recipe, find_encoder, fine_tune
from ensembles_cli.demo.functions import find_pairs
from transformers.utils import logging
logging.disable_progress_bar()
for seed in range(3):
    fine_tune(find_encoder(), find_pairs("numpy")[:64],
              Path(f"demo/encoder/member-{seed + 1}"), recipe=Recipe(seed, 5e-5),
              track=lambda batches: batches)
"""


def test_the_python_of_the_readme_runs(
    tmp_path: Path, interpreter: Callable[..., str]
) -> None:
    """Blocks run in their order, in one namespace, in a process of their own."""
    move = f"import os; os.chdir({str(tmp_path)!r})"
    interpreter("\n".join([move, DEMO]))
    quiet = "from transformers.utils import logging; logging.disable_progress_bar()"
    said = interpreter("\n".join([move, quiet, *blocks(README, "python")]))
    lines = said.splitlines()
    assert min(map(float, lines[-3:])) > 0.8  # the three ways of one set of fine-tunes
    shown = re.findall(r"# (\d\.\d\d), (\d\.\d\d), (\d\.\d\d)$", page_of(README), re.M)
    assert [tuple(line.split()[0] for line in lines[:3])] == shown


@pytest.mark.parametrize(
    "code", blocks(README, "python"), ids=lambda code: code.splitlines()[0]
)
def test_a_block_of_python_stands_by_itself(code: str) -> None:
    """A reader pastes one block, without those before it."""
    tree = ast.parse(code)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    known = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    known |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            known |= {alias.asname or alias.name for alias in node.names}
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    assert used - known <= set(dir(builtins))


def test_the_readme_has_blocks_of_every_kind() -> None:
    assert len(blocks(README, "python")) > 5
    assert len(shown_commands(README)) > 10


def test_every_extra_that_is_shipped_is_named_in_the_readme() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = set(config["options.extras_require"]) - {"test", "dev"}
    assert set(re.findall(r"^\| `(\w+)` \|", page_of(README), re.M)) == extras


def test_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page_of(README))
    assert len(links) > 5
    for link in links:
        assert (ROOT / link).exists(), link


def options(command: click.Command) -> set[str]:
    context = click.Context(command, help_option_names=["-h", "--help"])
    names = {
        name
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    return names


@pytest.mark.parametrize(
    "page", [README, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name
)
def test_commands_that_are_shown_exist_with_their_options(page: Path) -> None:
    for line in shown_commands(page):
        words = shlex.split(line, comments=True)[1:]
        words = words[: words.index("|")] if "|" in words else words
        command: click.Command = cli
        if words and not words[0].startswith("-"):
            found = cli.get_command(click.Context(cli), words[0])
            assert found is not None, line
            command, words = found, words[1:]
        given = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert given <= options(command), line


@pytest.mark.parametrize("name", cli.list_commands(click.Context(cli)))
def test_every_command_and_option_has_help(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.help
    for parameter in command.get_params(
        click.Context(command, help_option_names=["-h", "--help"])
    ):
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
