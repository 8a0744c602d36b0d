"""Mean ranks, losses and ratings of the ways to combine, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata, studentized_range, wilcoxon
from tabular_ways import AUC, BALANCED, BEST, DEFAULT, LOG_LOSS, OURS

Facts = Mapping[str, Any]
TOLERATED = 1.02  # ratio to the best single member's log-loss
TITLES = {
    LOG_LOSS: "Log-loss",
    BALANCED: "Balanced accuracy",
    AUC: "Area under the ROC curve",
}


def errors_by_set(facts: Facts, metric: str) -> dict[str, dict[str, float]]:
    """Mean error of each way on each set; the log-loss is the mean over all rows."""
    return {
        name: {
            way: entry.get("loss", float(np.mean(entry["errors"])))
            for way, entry in table.items()
        }
        for name, table in facts["results"][metric].items()
    }


def matrix(facts: Facts, metric: str) -> tuple[list[str], list[str], Any]:
    """Sets, ways, and errors of shape (n_sets, n_ways).

    Errors are rounded to ten digits, so that equal predictions have equal ranks.
    """
    errors = errors_by_set(facts, metric)
    sets = list(errors)
    ways = list(errors[sets[0]])
    values = [[errors[name][way] for way in ways] for name in sets]
    return sets, ways, np.round(values, 10)


def mean_ranks(errors: Any) -> Any:
    """Mean rank of each way over sets; 1 is the best, ties have the mean rank."""
    return rankdata(errors, axis=1).mean(axis=0)


def critical_difference(n_ways: int, n_sets: int) -> float:
    """Difference of mean ranks that is significant at 5 %, for all pairs of ways.

    References
    ----------
    Demšar (2006), "Statistical comparisons of classifiers over multiple data sets",
    Journal of Machine Learning Research 7, section 3.2.2 (Nemenyi test).
    """
    quantile = studentized_range.ppf(0.95, n_ways, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(n_ways * (n_ways + 1) / (6 * n_sets)))


def against_best(entry: Facts, best: Facts) -> int:
    """1 if a way is worse than the best single member, -1 if it is better, else 0.

    Both by more than 2 % and two standard errors of the mean difference over rows.
    """
    difference = entry["loss"] - best["loss"]
    if abs(difference) <= 2 * entry["se"]:
        return 0
    if entry["loss"] > TOLERATED * best["loss"]:
        return 1
    return -int(best["loss"] > TOLERATED * entry["loss"])


def markdown(facts: Facts) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    sets = facts["sets"]
    n_test = sum(not one["is_development"] for one in sets)
    lines = [
        f"# A hundred data sets, {facts['date']}",
        "",
        f"`{facts['command']}`, {facts['minutes']:.0f} minutes, with recorded members.",
        "",
        f"{machine}.",
        "",
        f"{len(sets)} sets of {len({one['family'] for one in sets})} families; sets of "
        "the same family are different questions about the same data. Members are "
        "fitted on one half of a set and tested on the other; halves tested of each "
        f"set: {facts['n_splits']}. Defaults of the "
        f"library were not tuned on {n_test} of the sets, the column *untuned*. By "
        "family: the mean rank if each family counts once. Elo: ratings of bencheval, "
        "with 95 % intervals over sets. CPU: seconds of `fit` per split, without the "
        "members.",
    ]
    for metric in facts["results"]:
        if len(facts["results"][metric]) > 1:
            lines += _section(facts, metric)
    return "\n".join([*lines, *_worse(facts), *_sizes(facts)]) + "\n"


def _section(facts: Facts, metric: str) -> list[str]:
    names, ways, errors = matrix(facts, metric)
    by_name = {one["name"]: one for one in facts["sets"]}
    families = np.array([by_name[name]["family"] for name in names])
    untuned = np.array([not by_name[name]["is_development"] for name in names])
    ranks = rankdata(errors, axis=1)
    by_family = [ranks[families == family].mean(axis=0) for family in set(families)]
    ours = ways.index(OURS[metric])
    head = "| way | mean rank | by family | untuned | mean error | ours better : worse "
    head += "| p | Elo | CPU s |"
    lines = ["", f"## {TITLES[metric]}, {len(names)} sets", ""]
    difference = critical_difference(len(ways), len(names))
    lines += [
        f"Mean ranks that differ by more than {difference:.2f} differ significantly "
        "(Nemenyi, 5 %). *Ours better : worse*: number of sets on which "
        f"“{OURS[metric]}” has a lower or a higher error, with the p-value of "
        "Wilcoxon's signed-rank test.",
        "",
        head + (" worse than best single | better |" if metric == LOG_LOSS else ""),
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|" + "--:|" * 2 * (metric == LOG_LOSS),
    ]
    order = np.argsort(mean_ranks(errors), kind="stable")
    for way in order:
        cells = [
            ways[way],
            f"{ranks[:, way].mean():.2f}",
            f"{np.mean(by_family, axis=0)[way]:.2f}",
            f"{ranks[untuned, way].mean():.2f}" if untuned.any() else "",
            f"{errors[:, way].mean():.4f}",
            *_duel(errors[:, ours], errors[:, way]),
            _rating(facts, metric, ways[way]),
            _cpu(facts, metric, ways[way]),
        ]
        if metric == LOG_LOSS:
            cells += _verdicts(facts, ways[way])
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _duel(ours: Any, other: Any) -> list[str]:
    if np.array_equal(ours, other):
        return ["", ""]
    p_value = wilcoxon(ours, other).pvalue
    return [f"{(ours < other).sum()} : {(ours > other).sum()}", f"{p_value:.1g}"]


def _rating(facts: Facts, metric: str, way: str) -> str:
    rating = facts["elo"].get(metric, {}).get(way)
    return "" if rating is None else "{:.0f} +{:.0f} -{:.0f}".format(*rating)


def _cpu(facts: Facts, metric: str, way: str) -> str:
    tables = facts["results"][metric].values()
    return f"{np.mean([np.mean(table[way]['cpu']) for table in tables]):.3f}"


def _verdicts(facts: Facts, way: str) -> list[str]:
    tables = facts["results"][LOG_LOSS].values()
    verdicts = [against_best(table[way], table[BEST]) for table in tables]
    n_worse = verdicts.count(1)
    return [f"{n_worse} ({n_worse / len(verdicts):.1%})", str(verdicts.count(-1))]


def _worse(facts: Facts) -> list[str]:
    """Sets where the default is worse than the best single member."""
    rows = [
        (name, table[DEFAULT], table[BEST])
        for name, table in facts["results"][LOG_LOSS].items()
        if against_best(table[DEFAULT], table[BEST]) == 1
    ]
    lines = [
        "",
        "## Where the default is worse than the best single member",
        "",
        "Log-loss higher by more than 2 % and two standard errors of the mean "
        f"difference over the test rows: {len(rows)} of "
        f"{len(facts['results'][LOG_LOSS])} sets.",
    ]
    if rows:
        lines += [
            "",
            "| set | default | best single | difference |",
            "|---|--:|--:|--:|",
        ]
    for name, ours, best in rows:
        apart = f"{ours['loss'] - best['loss']:.4f} ± {ours['se']:.4f}"
        lines.append(f"| {name} | {ours['loss']:.4f} | {best['loss']:.4f} | {apart} |")
    return lines


def _sizes(facts: Facts) -> list[str]:
    lines = [
        "",
        "## Sets",
        "",
        "Log-loss of the default and of the best single member.",
    ]
    lines += ["", "| set | rows | classes | rarest class | tuned on | default | best |"]
    lines += ["|---|--:|--:|--:|---|--:|--:|"]
    for one in facts["sets"]:
        table = facts["results"][LOG_LOSS][one["name"]]
        lines.append(
            f"| {one['name']} | {one['n_rows']:,} | {one['n_classes']} "
            f"| {one['rarest']} | {'yes' if one['is_development'] else ''} "
            f"| {table[DEFAULT]['loss']:.4f} | {table[BEST]['loss']:.4f} |"
        )
    return lines


def cliques(ranks: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """Longest runs of sorted mean ranks that do not differ significantly.

    Parameters
    ----------
    ranks : sequence of float
        Mean ranks in ascending order.
    difference : float
        Critical difference.

    Returns
    -------
    list of (first, last)
        Indices of the first and the last way of each run of two and more.
    """
    runs: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(i for i, other in enumerate(ranks) if other - rank <= difference)
        if last > first and (not runs or last > runs[-1][1]):
            runs.append((first, last))
    return runs
