"""The documentation is true: its code runs, and it has an entry for each name."""

from __future__ import annotations

import ast
import builtins
import glob
import importlib
import importlib.util
import inspect
import json
import os
import re
import shlex
import sys
import types
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

import ensembles
from ensembles.checkpoints import ModelSoup
from ensembles.checkpoints.directories.unreadable import LAYOUTS
from ensembles.checkpoints.formats.builtin import FORMATS
from ensembles.checkpoints.formats.recognized import RECOGNIZED
from ensembles.checkpoints.runs.layouts.builtin import LAYOUTS as RUN_LAYOUTS
from ensembles.embeddings import POOLINGS, WEIGHTINGS, SentenceEmbedder, WordVectors
from ensembles.predictions import (
    COMBINERS,
    EnsembleClassifier,
    EnsembleRegressor,
    EnsembleTransformer,
)
from ensembles.rules import RULES
from ensembles.selection import SELECTIONS
from ensembles_cli.main import cli
from tests.checkpoints.adapters.lora_files import factors, save_peft

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
BUILT = {"_build", "gallery", "generated"}
SITE = sorted(p for p in DOCS.rglob("*.md") if not BUILT & set(p.parts))
PAGES = [README, ROOT / "CONTRIBUTING.md", *SITE]
PROMPT = "$ "
# Commands that install something, or take long.
NOT_RUN = ("pip install", "make ", "ensemble demo", "cd ", "hf download", "git clone")
ESTIMATORS = [
    EnsembleClassifier,
    EnsembleRegressor,
    EnsembleTransformer,
    ModelSoup,
    SentenceEmbedder,
]
PACKAGES = (
    *("checkpoints", "predictions", "embeddings", "rules", "selection", "reports"),
    *("predictions.files", "predictions.files.hub", "predictions.forecasts"),
)


class Block(NamedTuple):
    """A fenced block of a page, and why it cannot run; None if it can."""

    language: str
    text: str
    reason: str | None


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def page_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(page: Path, *languages: str) -> list[Block]:
    """Fenced blocks in these languages, in their order."""
    pattern = r"(?:^<!-- not run: (.+) -->\n)?^```(\w+)\n(.*?)^```$"
    found = re.findall(pattern, page_of(page), re.MULTILINE | re.DOTALL)
    return [
        Block(language, text, reason or None)
        for reason, language, text in found
        if language in languages
    ]


def python_of(page: Path) -> str:
    return "\n".join(b.text for b in blocks(page, "python") if b.reason is None)


def shown_commands(page: Path) -> list[str]:
    """Commands of shell blocks that can run, with continued lines joined."""
    shells = blocks(page, "bash", "console", "sh", "shell")
    text = "\n".join(block.text for block in shells if block.reason is None)
    lines = text.replace("\\\n", " ").splitlines()
    return [line.removeprefix(PROMPT) for line in lines if line.startswith(PROMPT)]


def script(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
BEFORE = {"docs/guide/concepts.md": DEMO}
WITH_CHECKPOINTS = {
    "docs/guide/merge_methods.md",
    "docs/guide/adapters.md",
    "docs/guide/adapters_and_models.md",
}  # whose Python reads files
# Of trainers, which print to stderr: code at the start of the same process.
QUIET_TRAINERS = """
import logging, lightning
from transformers.utils import logging as of_transformers
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
of_transformers.disable_progress_bar()
"""
START = {"docs/tasks/average_while_training.md": QUIET_TRAINERS}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if python_of(page)], ids=name_of
)
def test_the_python_of_a_page_runs(
    page: Path,
    tmp_path: Path,
    rng: np.random.Generator,
    interpreter: Callable[..., str],
) -> None:
    """Blocks run in their order, in one namespace, in a process of their own."""
    if name_of(page) in WITH_CHECKPOINTS:
        save_checkpoints(tmp_path, rng)
    move = f"import os; os.chdir({str(tmp_path)!r})"
    prepared = BEFORE.get(name_of(page))
    if prepared:
        interpreter("\n".join([move, prepared]))
    quiet = "import warnings; warnings.simplefilter('default')"
    quiet += "; warnings.showwarning = lambda *_, **__: None"
    bar = "from transformers.utils import logging; logging.disable_progress_bar()"
    start = [move, quiet, bar] if prepared else [move, quiet]
    start.append(START.get(name_of(page), ""))
    out = interpreter("\n".join([*start, python_of(page)]))
    shown = re.findall(r"# (\d\.\d\d), (\d\.\d\d), (\d\.\d\d)$", page_of(page), re.M)
    if shown:
        lines = out.splitlines()
        assert [tuple(line.split()[0] for line in lines[-3:])] == shown


@pytest.mark.parametrize(
    "code",
    [block.text for block in blocks(README, "python")],
    ids=lambda code: code.splitlines()[0],
)
def test_a_block_of_python_stands_by_itself(code: str) -> None:
    """A reader of the README pastes one block, without those before it."""
    tree = ast.parse(code)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    known = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    known |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            known |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef):
            known.add(node.name)
    used = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    assert used - known <= set(dir(builtins))


def test_the_readme_has_blocks_of_every_kind() -> None:
    assert len(blocks(README, "python")) > 2
    assert len(shown_commands(README)) > 8


def test_every_block_that_does_not_run_says_why() -> None:
    reasons = [
        block.reason
        for page in PAGES
        for block in blocks(page, "python", "console")
        if block.reason is not None
    ]
    assert all(len(reason) > 10 for reason in reasons)
    assert len(reasons) < 10


def save_model(folder: Path, tensors: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "bert", "hidden_size": 16}')
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def save_checkpoints(folder: Path, rng: np.random.Generator) -> None:
    """Checkpoints of the names that the pages use, fine-tuned from one base."""
    base = rng.standard_normal((16, 16)).astype(np.float32)

    def tensors() -> dict[str, Any]:
        noise = rng.standard_normal((16, 16)).astype(np.float32)
        return {"dense.weight": base + 0.1 * noise}

    for name in ("a", "b", "c", "base", "run-1", "run-2", "run-3"):
        save_file(tensors(), folder / f"{name}.safetensors")
    (folder / "run").mkdir()
    for step in range(100, 900, 100):
        save_file(tensors(), folder / "run" / f"checkpoint-{step}.safetensors")
    for name in ("model-a", "model-b", "runs/1", "runs/2", "start", "run1", "run2"):
        save_model(folder / name, tensors())
    save_runs(folder, tensors)
    (folder / "config.yml").write_text(
        "{merge_method: linear, models: [{model: model-a}, {model: model-b}], "
        "parameters: {weight: 0.5}}"
    )
    (folder / "lora-run").mkdir()
    steps = [f"lora-run/checkpoint-{step}" for step in range(100, 900, 100)]
    for seed, name in enumerate(["lora-a", "lora-b", *steps]):
        save_peft(folder / name, factors(seed))
    for name in ("lora-base", "fine-tuned"):
        shapes = {module: (len(b), a.shape[1]) for module, (a, b) in factors(0).items()}
        weights = {f"{module}.weight": shape for module, shape in shapes.items()}
        save_model(
            folder / name, {n: rng.random(shape) for n, shape in weights.items()}
        )


def save_runs(folder: Path, tensors: Callable[[], dict[str, Any]]) -> None:
    """Runs of the Hugging Face Trainer and of icefall."""
    settings = Namespace(metric_for_best_model="loss", greater_is_better=False)
    for step in range(100, 900, 100):
        inside = folder / f"trainer/checkpoint-{step}"
        save_model(inside, tensors())
        log = [{"step": step, "eval_loss": 50 / step, "eval_accuracy": step / 900}]
        state = {"epoch": step / 400, "log_history": log}
        (inside / "trainer_state.json").write_text(json.dumps(state))
        torch.save(settings, inside / "training_args.bin")
    (folder / "exp").mkdir()
    for n in range(10):
        parameters = {name: torch.tensor(value) for name, value in tensors().items()}
        content = {"model": parameters, "model_avg": parameters, "average_period": 100}
        for name, step in ((f"epoch-{21 + n}", 1000), (f"checkpoint-{n + 1}000", 1000)):
            content["batch_idx_train"] = step * (n + 1)
            torch.save(content, folder / "exp" / f"{name}.pt")


def save_predictions(folder: Path, rng: np.random.Generator) -> None:
    """Class probabilities of three members, and the true labels."""
    y = np.arange(60) % 3
    rows = [f"{row},{y[row]}" for row in range(60)]
    (folder / "y.csv").write_text("\n".join(["id,wine", *rows]) + "\n")
    rows = [f"{text},{n // 6},2026-01-{1 + n // 3:02d}" for n, text in enumerate(rows)]
    (folder / "visits.csv").write_text("\n".join(["id,wine,site,day", *rows]) + "\n")
    for part in ("oof", "test"):
        (folder / part).mkdir()
        for name in ("forest", "bayes", "neighbors"):
            y_proba = rng.dirichlet(np.ones(3), 60) / 2 + np.eye(3)[y] / 2
            lines = [f"{row},{','.join(map(str, p))}" for row, p in enumerate(y_proba)]
            text = "\n".join(["id,0,1,2", *lines]) + "\n"
            (folder / part / f"{name}.csv").write_text(text)


EVALUATION = """
import sys
from pathlib import Path
from safetensors.numpy import load_file

path = Path(sys.argv[1])
path = path / "model.safetensors" if path.is_dir() else path
print("accuracy", 1 - abs(load_file(path)["dense.weight"].mean()))
"""


@pytest.fixture
def folder(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with the files that commands of the pages read."""
    save_checkpoints(tmp_path, rng)
    (tmp_path / "eval.py").write_text(EVALUATION)
    for name in ("loss.sh", "eval.sh"):
        (tmp_path / name).write_text('#!/bin/sh\nexec python eval.py "$1"\n')
        (tmp_path / name).chmod(0o755)
    words = re.findall(
        r"\w+", "a the cat dog sat lay down stocks fell good bad film was"
    )
    vectors = rng.standard_normal((len(words), 8)).astype(np.float32)
    rows = [f"{w} {' '.join(map(str, v))}" for w, v in zip(words, vectors, strict=True)]
    (tmp_path / "glove.txt").write_text("\n".join(rows) + "\n")
    texts = ["the film was good", "a bad film", "the cat sat", "a dog lay down"]
    for name in ("mine.txt", "queries.txt"):
        (tmp_path / name).write_text("\n".join(texts) + "\n")
    table = ["id,body", *(f"{n},{text}" for n, text in enumerate(texts))]
    (tmp_path / "reviews.csv").write_text("\n".join(table) + "\n")
    pairs = [f"{texts[n]},{texts[m]}" for n in range(4) for m in range(n)]
    sts = [f"main,set,2026,{n},{n / 2},{pair}" for n, pair in enumerate(pairs)]
    (tmp_path / "sts-dev.csv").write_text("\n".join(sts) + "\n")
    save_predictions(tmp_path, rng)
    model = models.WordLevel({w: n for n, w in enumerate([*words, "?"])}, unk_token="?")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    matrix = np.vstack([vectors, np.zeros((1, 8), np.float32)])
    table_of = WordVectors([*words, "?"], matrix, tokenizer=tokenizer)
    embedder = SentenceEmbedder(table_of, weights=None).fit()
    for name in ("all-MiniLM-L6-v2", "member-1", "member-2"):
        embedder.save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    return tmp_path


def runnable(page: Path) -> list[str]:
    return [line for line in shown_commands(page) if not line.startswith(NOT_RUN)]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if runnable(page)], ids=name_of
)
def test_the_commands_of_a_page_run(page: Path, folder: Path) -> None:
    """Commands run in their order, on small files of the names that they use."""
    for line in runnable(page):
        program, *arguments = shlex.split(line, comments=True)
        assert program == "ensemble", line
        arguments = [
            path
            for text in arguments
            for path in (sorted(glob.glob(text)) if "*" in text else []) or [text]
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, f"{line}\n{done.output}{done.stderr}"


@pytest.fixture(autouse=True)
def _showwarning() -> Iterator[None]:
    """A command replaces the function that shows warnings."""
    before = warnings.showwarning
    yield
    warnings.showwarning = before


def test_every_extra_that_is_shipped_is_named_where_it_is_installed() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = set(config["options.extras_require"]) - {"test", "dev", "docs"}
    for page in (README, DOCS / "installation.md"):
        assert set(re.findall(r"^\| `(\w+)` \|", page_of(page), re.M)) == extras


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page_of(page))
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_other_sites_are_well_formed(page: Path) -> None:
    for link in re.findall(r"\]\((http[^)]*)\)", page_of(page)):
        assert re.fullmatch(r"https://[\w.-]+\.[a-z]+(/[\w./~%#?=&+-]*)?", link), link


def options(command: click.Command) -> set[str]:
    context = click.Context(command, help_option_names=["-h", "--help"])
    names = {
        name
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    return names


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_that_are_shown_exist_with_their_options(page: Path) -> None:
    for line in shown_commands(page):
        if not line.startswith("ensemble "):
            continue
        words = shlex.split(line, comments=True)[1:]
        command: click.Command = cli
        while words and isinstance(command, click.Group) and words[0][0] != "-":
            found = command.get_command(click.Context(command), words[0])
            assert found is not None, line
            command, words = found, words[1:]
        given = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert given <= options(command), line


def shipped(*tables: dict[str, Any]) -> list[Any]:
    """Registered functions of the library, without those that an example adds."""
    entries = [entry for table in tables for entry in table.values()]
    return [e for e in entries if e.function.__module__.startswith("ensembles.")]


def help_of(command: str, parameter: str) -> str:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    return next(
        str(getattr(p, "help", "")) for p in found.params if p.name == parameter
    )


@pytest.mark.parametrize("name", ["embed", "evaluate", "similar"])
def test_the_help_names_every_pooling_and_word_weighting(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    shown = {param.name: str(getattr(param, "help", "")) for param in command.params}
    for option, table in (("rule", POOLINGS), ("weights", WEIGHTINGS)):
        for entry in shipped(table):
            assert re.search(rf"\b{entry.name}\b", shown[option]), entry.name


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.__name__)
def test_parameters_in_the_docstring_of_an_estimator_exist(estimator: Any) -> None:
    text = " ".join((inspect.getdoc(estimator) or "").split()).replace("`", "")
    pairs = re.findall(r'\{"(\w+)": [^}]+\} (?:for|of) "(\w+)"', text)
    assert pairs
    tables = (RULES, SELECTIONS, COMBINERS, POOLINGS, WEIGHTINGS)
    for parameter, name in pairs:
        named = [entry for entry in shipped(*tables) if entry.name == name]
        assert any(parameter in entry.params for entry in named), (name, parameter)


def commands(group: click.Group = cli) -> Iterator[click.Command]:
    """All commands, with the commands of groups."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield command
        if isinstance(command, click.Group):
            yield from commands(command)


@pytest.mark.parametrize("command", list(commands()), ids=lambda command: command.name)
def test_every_command_and_option_has_help(command: click.Command) -> None:
    assert command.help
    for parameter in command.get_params(
        click.Context(command, help_option_names=["-h", "--help"])
    ):
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def exported() -> list[tuple[str, str, Any]]:
    """Package, name and object of everything that the library exports."""
    found = []
    for package in PACKAGES:
        module: Any = importlib.import_module(f"ensembles.{package}")
        found += [(package, name, getattr(module, name)) for name in module.__all__]
    return found


def documented() -> dict[str, set[str]]:
    """By module, names that the pages of the reference have an entry for."""
    found: dict[str, set[str]] = {}
    for page in sorted((DOCS / "reference").glob("*.md")):
        module = ""
        for line in page_of(page).splitlines():
            if line.startswith(".. currentmodule:: "):
                module = line.split()[-1]
            entry = re.fullmatch(r"(?:   |\.\. py:data:: )([A-Za-z]\w*)", line)
            if entry:
                found.setdefault(module, set()).add(entry[1])
    return found


def in_reference() -> dict[str, set[str]]:
    """By module, names with an entry, including those of registered functions."""
    names = documented()
    for page in script(DOCS / "registered.py").PAGES.values():
        names.setdefault(page.module, set()).update(page.entries)
    return names


def test_every_exported_name_is_in_the_reference() -> None:
    names = in_reference()
    for package, name, _ in exported():
        module = f"ensembles.{package}"
        assert name in names.get(module, set()), f"{module}.{name}"


def imported(page: Path) -> Iterator[tuple[str, str]]:
    """Module and name of everything of the library that the code of a page imports."""
    for node in ast.walk(ast.parse(python_of(page))):
        if isinstance(node, ast.ImportFrom) and f"{node.module}".startswith(
            "ensembles."
        ):
            yield from ((f"{node.module}", alias.name) for alias in node.names)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if python_of(page)], ids=name_of
)
def test_names_that_a_page_imports_are_in_the_reference(page: Path) -> None:
    names = in_reference()
    for module, name in imported(page):
        assert name in names.get(module, set()), f"{module}.{name}"


# Modules that an addition to the library imports from, and callbacks of trainers.
EXTENDING = (
    "checkpoints.averaging.",
    "checkpoints.formats.",
    "predictions.combiners.accumulation",
    "selection.score",
    "embeddings.similarity.evaluation",
)


def test_every_name_in_the_reference_is_exported() -> None:
    """A reader imports a documented name from the module that the page names."""
    for module, names in documented().items():
        package = importlib.import_module(module)
        part = module.removeprefix("ensembles.")
        if part.startswith(EXTENDING):
            assert all(hasattr(package, name) for name in names), module
            continue
        assert part in (*PACKAGES, "registry"), module
        public = getattr(package, "__all__", vars(package))
        assert names <= set(public), module


def test_every_name_of_the_library_itself_is_in_the_reference() -> None:
    text = page_of(DOCS / "reference" / "index.md")
    library: Any = ensembles
    names = {name for name in library.__all__ if name not in PACKAGES}
    assert set(re.findall(r"\* - ``ensembles\.(\w+)``", text)) == names


def test_every_registered_function_is_in_the_reference() -> None:
    registered = script(DOCS / "registered.py")
    for title, page in registered.PAGES.items():
        assert f"{{registered}} {title}" in page_of(DOCS / "reference" / f"{title}.md")
        lines = registered.markdown(title)
        for name in page.entries:
            assert f".. autofunction:: {page.module}.{name}" in lines


def test_every_checkpoint_format_is_in_the_reference() -> None:
    page = page_of(DOCS / "reference" / "formats.md")
    markdown = script(DOCS / "registered.py").markdown
    assert "{registered} formats" in page
    assert "{registered} refused_formats" in page
    rows = "\n".join(markdown("formats"))
    for format_ in FORMATS.values():
        assert f"| `{format_.name}` |" in rows
        assert all(f"`{suffix}`" in rows for suffix in format_.suffixes)
    refused = "\n".join(markdown("refused_formats")).replace("\\", "")
    assert all(recognized.advice in refused for recognized in RECOGNIZED)


def test_every_run_layout_is_on_the_page_of_runs() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| ", page_of(DOCS / "tasks/average_a_run.md"), re.M
    )
    assert sorted(rows) == sorted(RUN_LAYOUTS)


def test_every_directory_that_is_refused_is_in_the_reference() -> None:
    page = page_of(DOCS / "reference" / "formats.md")
    assert "{registered} refused_directories" in page
    lines = script(DOCS / "registered.py").markdown("refused_directories")
    assert len(lines) == len(LAYOUTS)
    for line, (_, text) in zip(lines, LAYOUTS, strict=True):
        assert text.removeprefix("{}") in line.replace("\\", "")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tests_that_a_page_names_exist(page: Path) -> None:
    for name in re.findall(r"`(tests/[\w./]+)`", page_of(page)):
        assert (ROOT / name).exists(), name


def described(function: Any, title: str = "Parameters") -> set[str]:
    """Names in a section of a docstring."""
    _, found, rest = (inspect.getdoc(function) or "").partition(
        f"{title}\n{'-' * len(title)}\n"
    )
    section = re.split(r"^\w.*\n-{3,}$", rest, maxsplit=1, flags=re.MULTILINE)[0]
    names = re.findall(r"^(\S.*?)(?: : .*)?$", section, re.MULTILINE) if found else []
    return {name.lstrip("*") for line in names for name in line.split(", ")}


def callables() -> Iterator[tuple[str, Any, Any]]:
    """Exported functions, classes and their public methods: name, signature, docs."""
    for package, name, value in exported():
        if inspect.isclass(value):
            yield f"{package}.{name}", value, value
            for method in sorted(vars(value)):
                member = inspect.unwrap(getattr(value, method))
                if not method.startswith("_") and inspect.isfunction(member):
                    yield f"{package}.{name}.{method}", member, member
        elif inspect.isfunction(value):
            yield f"{package}.{name}", value, value


@pytest.mark.parametrize(
    ("function", "docs"), [pytest.param(f, d, id=name) for name, f, d in callables()]
)
def test_every_parameter_of_an_exported_function_is_described(
    function: Any, docs: Any
) -> None:
    if inspect.isclass(function) and issubclass(function, dict | tuple):
        return  # a TypedDict has no signature; fields of a NamedTuple are attributes
    if getattr(function, "_is_protocol", False):
        return  # it is not called
    parameters = inspect.signature(function).parameters.values()
    # The options of a TypedDict are described one by one.
    names = {p.name for p in parameters if "Unpack" not in str(p.annotation)}
    assert names - {"self", "cls"} <= described(docs)


@pytest.mark.parametrize("name", ["pictures", "ensemble_pictures"])
def test_pictures_follow_the_code_that_draws_them_and_are_small(name: str) -> None:
    drawn = script(DOCS / "make_pictures.py")
    (page,) = [page for page in drawn.PAGES if page.stem == name]
    paths = [page.parent / path for _, path in drawn.pictures(page) if path]
    names = [path.name for path in paths]
    assert names == re.findall(r"pictures/(\w+\.\w+)\)", page_of(page))
    assert len(paths) == 8
    assert all(path.stat().st_size < 60_000 for path in paths)


def test_the_figure_shows_the_committed_results() -> None:
    drawn = script(DOCS / "make_figure.py")
    for theme in drawn.COLORS:
        page = page_of(DOCS / "_static" / f"peers-{theme}.svg")
        assert page == drawn.figure(theme), "run python docs/make_figure.py"
