"""Docstrings, messages, help and pages use the field's words."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from ensembles_cli.main import cli

ROOT = Path(__file__).parents[1]
SOURCES = sorted(p for d in ("ensembles", "cli") for p in (ROOT / d).rglob("*.py"))
BUILT = {"_build", "gallery", "generated"}
DOCS = sorted(p for p in (ROOT / "docs").rglob("*.md") if not BUILT & set(p.parts))
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *DOCS]
# Pattern of an idiom, and what to write instead.
IDIOMS = {
    r"small letters": "lowercase",
    r"brought to length 1|length 1 or not": "L2-normalized",
    r"whole or absent": "atomic",
    r"files? of torch": "PyTorch checkpoint",
    r"nets? of skorch": "skorch net",
    r"(models?|tokenizers?|directories) of Hugging Face": "Hugging Face model",
    r"(transformers?|rules?|estimators?) of scikit-learn's": "scikit-learn transformer",
    r"shares? (a|one|the same) start": "fine-tuned from the same initialization",
    r"(members?|models?|they|it) (says?|said|tells?|answers?)\b": "predict, print",
    r"what (members?|models?|they) (say|said|predict|answer|are)\b": "predictions",
    r"data that (the )?members had not seen": "out-of-fold predictions",
    r"people's (scores|judge?ments)": "human similarity ratings",
    r"what is (asked|given|written|said|learned|known|told)": "a noun",
    r"what becomes of": "how to handle",
    r"\bthose (that|which|who)\b": "the noun, or the ones that",
    r"of which\b": "a clause of its own",
    r"\btold (by|apart|from)\b": "identified by, distinguished from",
    r"\balike\b": "the same, similar, both",
    r"\b(it|this|that|which|who|they) (is|are) no\b(?! longer)": "is not a",
    r"\bwhere there (is|are) (none|no)\b": "without",
    r"\bmust be what\b": "must be",
    r"\bway out\b": "hint, fix",
    r"(functions?|estimators?|models?|soups?|clone) forgets?\b": "discard",
    r"goes on\b|go on\b": "continue",
    r"\bpass(es)? by\b": "is streamed",
    r"lies? (there|where|in|beside)\b": "is in",
    r"\bnobody\b|\bwhoever\b": "name the subject",
    r"colour|behaviour|favour|neighbour|licence": "American spelling",
    r"(normal|initial|optim|summar|recogn|general)is(e|ed|es|ing|ation)\b": "-ize",
}
# Names as their owners write them, by upper and lower case.
NAMES = {
    r"\bHuggingFace\b|\bhugging ?face\b": "Hugging Face",
    r"\bPytorch\b|\bpytorch (file|model|module|tensor)": "PyTorch",
    r"\bnumpy arrays?\b|\bNumpy\b": "NumPy array",
}


class Text(NamedTuple):
    """A piece of prose, with the place that it is in."""

    where: str
    prose: str


def without_code(text: str) -> str:
    """The text without code, so that names and examples do not count."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^ *(>>>|\.\.\.).*(\n(?! *\n).*)*", "", text, flags=re.MULTILINE)
    return re.sub(r"`+[^`\n]+`+", "", text)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def docstrings() -> Iterator[Text]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                name = getattr(node, "name", "the module")
                if text:
                    yield Text(f"{named(path)}, {name}", text)


def messages() -> Iterator[Text]:
    """Literal parts of what is raised, warned or printed."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            function = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Raise) or re.search(r"warn|echo|note", function):
                parts = [
                    part.value
                    for part in ast.walk(node)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                ]
                line = getattr(node, "lineno", 0)
                yield Text(f"{named(path)}, line {line}", " ".join(parts))


def helps(group: click.Group = cli) -> Iterator[Text]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from helps(command)
        yield Text(f"ensemble {name}", inspect.cleandoc(command.help or ""))
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                yield Text(
                    f"ensemble {name} {parameter.opts[-1]}", parameter.help or ""
                )


def pages() -> Iterator[Text]:
    for path in PAGES:
        yield Text(named(path), path.read_text(encoding="utf-8"))


PAGE_TEXTS = [Text(where, without_code(prose)) for where, prose in pages()]
SOURCE_TEXTS = [
    Text(where, without_code(prose))
    for part in (docstrings, messages, helps)
    for where, prose in part()
]


def occurrences(idiom: str, texts: list[Text]) -> list[str]:
    """Places of an idiom, with the words around it."""
    flags = re.IGNORECASE if idiom in IDIOMS else 0
    pattern = re.compile(idiom.replace(" ", r"\s+"), flags)
    return [
        f"{where}: {prose[max(match.start() - 30, 0) : match.end() + 30]!r}"
        for where, prose in texts
        for match in pattern.finditer(prose)
    ]


@pytest.mark.parametrize("idiom", [*IDIOMS, *NAMES])
def test_an_idiom_is_absent(idiom: str) -> None:
    texts = [*PAGE_TEXTS, *SOURCE_TEXTS]
    better = {**IDIOMS, **NAMES}[idiom]
    assert not occurrences(idiom, texts), f"write: {better}"


def test_prose_is_found_in_every_kind_of_text() -> None:
    for part in (docstrings, messages, helps, pages):
        assert len(list(part())) > 10, part.__name__


def test_code_in_prose_does_not_count() -> None:
    text = "The rule `alike` of\n\n>>> alike(1)\n1\n\n```python\nalike\n```\nends."
    assert "alike" not in without_code(text)
