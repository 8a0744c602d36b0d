"""Demo, part 1: a soup of three encoders that are fine-tuned to find functions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from ensembles_cli.demo.console import Stage
from ensembles_cli.demo.encoder import (
    Recipe,
    find_encoder,
    fine_tune,
    load_encoder,
    rank,
)
from ensembles_cli.demo.functions import Pair, find_pairs, hold_out, without_repeats

RECIPES = (Recipe(0, 5e-5), Recipe(1, 1e-4), Recipe(2, 1.5e-4))
HELD_OUT = 0.2  # share of the functions that are held out from training

Ranks = tuple[np.ndarray, ...]


def find_functions(folder: Path, stage: Stage) -> None:
    """Fine-tune, average and evaluate the encoders, and save them in ``folder``."""
    base = find_encoder()
    stage.title("Act 1: what a sentence encoder learned three times, in one soup")
    known = find_pairs("numpy", "sklearn")
    training, held_out = hold_out(known, share=HELD_OUT, seed=0)
    shifted = without_repeats(find_pairs("scipy"), known=known)
    stage.say(
        f"all-MiniLM-L6-v2 learns to find a function by its description from "
        f"{len(training)} functions of numpy and scikit-learn. It is asked for "
        f"{len(held_out)} others, and for the {len(shifted)} of scipy, which no member "
        f"has seen. {example(held_out[0])}"
    )
    members = [folder / f"member-{number}" for number in range(1, len(RECIPES) + 1)]
    for member, recipe in zip(members, RECIPES, strict=True):
        track = partial(stage.track, label=member.name)
        fine_tune(base, training, member, recipe=recipe, track=track)
    soup = folder / "soup"
    stage.run("avg", *map(str, members), "-o", str(soup), "--force")
    directories = [base, *members, soup]
    ranks = [
        tuple(rank(load_encoder(directory), pairs) for pairs in (held_out, shifted))
        for directory in stage.track(directories, "ranking")
    ]
    report(ranks, stage)


def example(pair: Pair) -> str:
    """Sentence with one description and the signature that it should find."""
    return f"For example: {pair.description!r} should find {pair.signature}."


def report(ranks: Sequence[Ranks], stage: Stage) -> None:
    """Print the scores of base, members and soup, with conclusions."""
    stage.table(
        ["", "seed", "learning rate", "MRR, held out", "MRR, scipy"], rows(ranks)
    )
    stage.say("MRR: mean of 1 / rank of the right function; 1 is perfect. * best.")
    for place, where in enumerate(("On held-out functions", "On scipy")):
        stage.say(verdict(where, [one[place] for one in ranks]))
    stage.say(choice(ranks))


def rows(ranks: Sequence[Ranks]) -> list[list[str]]:
    """Cells of the table; the best score of each column, without means, has a star."""
    scores = np.array([[column.mean() for column in one] for one in ranks])
    cells = [
        [f"{score:.3f}{' *' if score == best else '  '}" for score, best in pairs]
        for pairs in (zip(row, scores.max(axis=0), strict=True) for row in scores)
    ]
    means = [f"{score:.3f}  " for score in scores[1:-1].mean(axis=0)]
    tuned = [
        [f"member {number}", str(recipe.seed), f"{recipe.learning_rate:g}", *row]
        for number, (recipe, row) in enumerate(
            zip(RECIPES, cells[1:-1], strict=True), start=1
        )
    ]
    return [
        ["base", "", "", *cells[0]],
        *tuned,
        ["mean of members", "", "", *means],
        ["soup", "", "", *cells[-1]],
    ]


def choice(ranks: Sequence[Ranks]) -> str:
    """Sentence that compares the soup with model selection on held-out functions."""
    scores = np.array([[column.mean() for column in one] for one in ranks])
    chosen = int(np.argmax(scores[1:-1, 0])) + 1
    return (
        f"Choosing one member by the held-out functions takes member {chosen}, which "
        f"has {scores[chosen, 1]:.3f} on scipy; the soup has {scores[-1, 1]:.3f}."
    )


def verdict(where: str, ranks: Sequence[np.ndarray]) -> str:
    """Sentence that compares the soup with the best member, with a standard error.

    Parameters
    ----------
    where : str
        Start of the sentence, such as "On scipy".
    ranks : sequence of ndarray of shape (n_questions,)
        Reciprocal ranks of the base, each member and the soup, in this order.
    """
    members, soup = ranks[1:-1], ranks[-1]
    best = int(np.argmax([member.mean() for member in members]))
    difference = soup - members[best]
    gain, error = difference.mean(), difference.std() / np.sqrt(len(difference))
    outcome = "beats" if gain > 0 else "does not beat"
    sizes = f"{gain:+.3f}, standard error {error:.3f}"
    return f"{where} the soup {outcome} the best member, {best + 1} ({sizes})."
