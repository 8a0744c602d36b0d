"""How much code does a reader have to follow? Sizes of parts, and call chains.

Prints, for each part of the library, its files, the length of its functions and its
documented parameters; then, for each of the main jobs on tiny inputs, the modules and
functions of this library that are entered, and the deepest chain of calls.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ensembles"
SECTION = re.compile(r"\n\n?\w[\w ]+\n-{3,}")


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """All functions and methods of a module."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def length(function: ast.FunctionDef) -> int:
    """Lines of the body, without docstring, comments and blank lines."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    if not body:
        return 0
    return len(ast.unparse(ast.Module(body, [])).splitlines())


def parameters(tree: ast.AST) -> Iterator[tuple[str, str, bool]]:
    """Documented parameters: of which function, which, and whether described."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        _, found, rest = (ast.get_docstring(node) or "").partition(
            "Parameters\n----------\n"
        )
        lines = SECTION.split(rest)[0].splitlines() if found else []
        for index, line in enumerate(lines):
            if line and not line.startswith(" "):
                following = "".join(lines[index + 1 : index + 2])
                yield node.name, line, following.startswith("    ")


def files() -> str:
    """Table of the parts of the library."""
    rows = ["part|modules|largest folder|functions|mean|p95|longest|parameters|bare"]
    paths = sorted(PACKAGE.rglob("*.py"))
    parts = sorted({path.relative_to(PACKAGE).parts[0] for path in paths})
    for part in [p for p in parts if not p.endswith(".py")] + ["ensembles"]:
        own = [
            p for p in paths if part in ("ensembles", p.relative_to(PACKAGE).parts[0])
        ]
        trees = [ast.parse(path.read_text()) for path in own]
        sizes = sorted(length(f) for tree in trees for f in functions(tree))
        folders = Counter(path.parent for path in own if path.stem != "__init__")
        documented = [found[2] for tree in trees for found in parameters(tree)]
        cells = (
            len(own),
            max(folders.values()),
            len(sizes),
            f"{statistics.mean(sizes):.1f}",
            sizes[int(0.95 * len(sizes))],
            sizes[-1],
            len(documented),
            documented.count(False),
        )
        rows.append("|".join(map(str, (part, *cells))))
    return table(rows)


def followed(job: Callable[[], Any]) -> tuple[int, int, int, int]:
    """Modules and functions entered, calls, and the deepest chain of own frames."""
    entered: Counter[tuple[str, str]] = Counter()
    depth = deepest = 0

    def look(frame: FrameType, event: str, _: Any) -> None:
        nonlocal depth, deepest
        if not frame.f_code.co_filename.startswith(str(PACKAGE)):
            return
        if event == "call":
            entered[frame.f_code.co_filename, frame.f_code.co_qualname] += 1
            depth += 1
            deepest = max(deepest, depth)
        elif event == "return":
            depth -= 1

    sys.setprofile(look)
    try:
        job()
    finally:
        sys.setprofile(None)
    modules = {name for name, _ in entered}
    return len(modules), len(entered), sum(entered.values()), deepest


def jobs(folder: Path) -> dict[str, Callable[[], Any]]:
    """The main jobs, imported and warmed up before they are followed."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.naive_bayes import GaussianNB

    from ensembles.checkpoints import ModelSoup, average, make_soup
    from ensembles.embeddings import SentenceEmbedder
    from ensembles.predictions import EnsembleClassifier

    X, y = load_iris(return_X_y=True)
    paths = [folder / f"{name}.safetensors" for name in "abc"]
    for value, path in enumerate(paths):
        save_file({"w": np.full((2, 3), value, np.float32)}, path)
    pair = [("lr", LogisticRegression(max_iter=500)), ("nb", GaussianNB())]
    default = EnsembleClassifier(pair)
    soft = EnsembleClassifier(pair, rule="mean", weights=None)
    soup = ModelSoup(SGDClassifier(random_state=0), weights="greedy_soup")
    words = {"dog": [1.0, 0.0], "cat": [0.0, 1.0]}
    embedder = SentenceEmbedder(words, weights=None)
    texts = ["a dog", "a cat"]

    def find_soup() -> None:
        score = lambda path: float(path.stat().st_size)  # noqa: E731
        make_soup(paths, score, folder / "soup.safetensors", force=True)

    out = folder / "out.safetensors"
    return {
        "average(A, B, out)": lambda: average(paths[:2], out, force=True),
        "EnsembleClassifier.fit": lambda: default.fit(X, y),
        "EnsembleClassifier.predict": lambda: default.predict(X),
        "soft vote: fit": lambda: soft.fit(X, y),
        "soft vote: predict": lambda: soft.predict(X),
        "SentenceEmbedder.fit": lambda: embedder.fit(texts),
        "SentenceEmbedder.transform": lambda: embedder.transform(texts),
        "ModelSoup.fit, greedy soup": lambda: soup.fit(X, y),
        "make_soup of three files": find_soup,
    }


def chains() -> str:
    """Table of the main jobs."""
    rows = ["job|modules|functions|calls|deepest chain"]
    with tempfile.TemporaryDirectory() as folder:
        for name, job in jobs(Path(folder)).items():
            job()
            rows.append("|".join(map(str, (name, *followed(job)))))
    return table(rows)


def table(rows: list[str]) -> str:
    """Rows of cells as Markdown."""
    first, *rest = [f"| {' | '.join(row.split('|'))} |" for row in rows]
    rule = "|" + "---|" * rows[0].count("|") + "---|"
    return "\n".join([first, rule, *rest])


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    sys.path[:0] = [str(ROOT)]
    os.environ["NUMBA_DISABLE_JIT"] = "1"  # compiled loops are called as functions
    import warnings

    warnings.simplefilter("ignore")
    print(f"{files()}\n\n{chains()}")
