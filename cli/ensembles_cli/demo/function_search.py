"""Demo, part 1: a soup of three encoders that are fine-tuned to find functions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ensembles_cli.demo.comparison import gain_of
from ensembles_cli.demo.console import DemoConsole
from ensembles_cli.demo.encoder import (
    Recipe,
    find_encoder,
    fine_tune,
    load_encoder,
    reciprocal_ranks,
    similarities_of,
)
from ensembles_cli.demo.functions import Pair, find_pairs, hold_out, without_duplicates

RECIPES = (Recipe(0, 5e-5), Recipe(1, 1e-4), Recipe(2, 1.5e-4))
HELD_OUT = 0.2  # share of the functions that are held out from training

Ranks = tuple[np.ndarray, ...]


def find_functions(folder: Path, console: DemoConsole) -> None:
    """Fine-tune, average and evaluate the encoders, and save them in ``folder``."""
    base = find_encoder()
    console.title("Part 1: the average of three fine-tuned sentence encoders")
    pairs = find_pairs("numpy", "sklearn")
    training, held_out = hold_out(pairs, fraction=HELD_OUT, seed=0)
    of_scipy = without_duplicates(find_pairs("scipy"), excluded=pairs)
    console.print(
        f"all-MiniLM-L6-v2 is fine-tuned to find a function by its description, on "
        f"{len(training)} functions of NumPy and scikit-learn. It is evaluated on "
        f"{len(held_out)} held-out functions of these libraries, and on "
        f"{len(of_scipy)} functions of SciPy. {example(held_out[0])}"
    )
    members = [folder / f"member-{number}" for number in range(1, len(RECIPES) + 1)]
    for member, recipe in zip(members, RECIPES, strict=True):
        track = partial(console.track, label=member.name)
        fine_tune(base, training, member, recipe=recipe, track=track)
    soup = folder / "soup"
    console.run_command("avg", *map(str, members), "-o", str(soup), "--force")
    directories = [base, *members, soup]
    ranks: list[Ranks] = []
    sums = [np.zeros(()), np.zeros(())]  # of the members' similarities
    for directory in console.track(directories, "evaluating"):
        encoder = load_encoder(directory)
        matrices = [similarities_of(encoder, pairs) for pairs in (held_out, of_scipy)]
        ranks.append(tuple(map(reciprocal_ranks, matrices)))
        if directory in members:
            sums = [total + part for total, part in zip(sums, matrices, strict=True)]
    report(ranks, tuple(map(reciprocal_ranks, sums)), console)


def example(pair: Pair) -> str:
    """Sentence with one description and its function."""
    return f"For example, {pair.description!r} should find {pair.signature}."


def report(ranks: Sequence[Ranks], ensemble_ranks: Ranks, console: DemoConsole) -> None:
    """Print the scores of base, members, soup and ensemble, with conclusions."""
    console.table(
        ["", "seed", "learning rate", "encoders", "MRR, held out", "MRR, SciPy"],
        table_rows([*ranks, ensemble_ranks]),
    )
    console.print(
        "MRR: mean reciprocal rank of the right function, at most 1. *: best score. "
        "±: standard error; a difference of less than two is within noise."
    )
    for column, data in enumerate(("held-out functions", "SciPy")):
        columns = [model_ranks[column] for model_ranks in ranks]
        console.print(compare_with_best_member(data, columns))
    console.print(compare_with_model_selection(ranks))
    n_members = len(ranks) - 2
    console.print(
        f"The ensemble ranks by the mean of the similarities of all members. It runs "
        f"{n_members} encoders for each text, the soup runs one."
    )


def mean_scores(ranks: Sequence[Ranks]) -> np.ndarray:
    """Mean reciprocal rank of each model on each data set."""
    return np.array([[column.mean() for column in model] for model in ranks])


def table_rows(ranks: Sequence[Ranks]) -> list[list[str]]:
    """Cells of the table; a star marks the best score of each column.

    Parameters
    ----------
    ranks : sequence of Ranks
        Reciprocal ranks of the base, each member, the soup and the ensemble.
    """
    scores = mean_scores(ranks)
    cells = [
        [f"{score:.3f}{' *' if score == best else '  '}" for score, best in pairs]
        for pairs in (zip(row, scores.max(axis=0), strict=True) for row in scores)
    ]
    means = [f"{score:.3f}  " for score in scores[1:-2].mean(axis=0)]
    tuned = [
        [f"member {number}", str(recipe.seed), f"{recipe.learning_rate:g}", "1", *row]
        for number, (recipe, row) in enumerate(
            zip(RECIPES, cells[1:-2], strict=True), start=1
        )
    ]
    return [
        ["base", "", "", "1", *cells[0]],
        *tuned,
        ["mean of scores", "", "", "", *means],
        ["soup", "", "", "1", *cells[-2]],
        ["ensemble", "", "", str(len(tuned)), *cells[-1]],
    ]


def compare_with_model_selection(ranks: Sequence[Ranks]) -> str:
    """Sentence that compares the soup with the member chosen on held-out functions."""
    scores = mean_scores(ranks)
    best = int(np.argmax(scores[1:-1, 0])) + 1
    return (
        f"Member {best} is the best member on held-out functions. On SciPy its score "
        f"is {scores[best, 1]:.3f}, and the score of the soup is {scores[-1, 1]:.3f}."
    )


def compare_with_best_member(data: str, ranks: Sequence[np.ndarray]) -> str:
    """Sentence that compares the soup with the best member, with an interval.

    Parameters
    ----------
    data : str
        Name of the test data, such as "SciPy".
    ranks : sequence of ndarray of shape (n_pairs,)
        Reciprocal ranks of the base, each member and the soup, in this order.
    """
    members, soup = ranks[1:-1], ranks[-1]
    best = int(np.argmax([member.mean() for member in members]))
    gain = gain_of(soup - members[best])
    return (
        f"On {data}, the soup {gain.outcome} the best member, member {best + 1} "
        f"(difference {gain})."
    )
