"""Merges of the members of several tasks, for `bench_tasks`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from task_evaluation import Evaluation
from task_training import SHARPNESS, Members, Part, State, Task, with_state
from torch import Tensor, nn
from torch.nn.functional import normalize

from ensembles.checkpoints import average
from ensembles.checkpoints.methods.builtin import RULES

SCALES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
TRIMMED = "fine-tuned, trimmed to 20 %"
SCALED = ("scale", SCALES)
RATES = (1e-5, 1e-4, 3e-4, 1e-3)  # of WUDI's steps; the first is the default
N_EXAMPLES = 256  # training rows of each task for Gram matrices
N_FISHER = 64  # training rows of each task for the Fisher information
BATCH_SIZE = 32


class Method(NamedTuple):
    """A rule with its parameters, and the values that are tried on validation data.

    Parameters
    ----------
    rule : str
        Name of the rule; the method is left out if it is not registered.
    params : dict
        Parameters that are the same for all tasks, from the papers.
    tried : str or None
        Parameter that is chosen on validation data.
    values : sequence of float
        Its values.
    moments : {"gram", "fisher", "gram, by layers"} or None
        Moments of training data that the rule needs.
    """

    rule: str
    params: Mapping[str, Any] = {}
    tried: str | None = None
    values: Sequence[float] = ()
    moments: str | None = None


METHODS = {
    "mean": Method("mean"),
    "Model Stock": Method("model_stock"),
    "SCE": Method("sce", {"density": 0.1}),
    "task arithmetic": Method("task_arithmetic", {}, *SCALED),
    "TIES": Method("ties", {"density": 0.2}, *SCALED),
    "DARE": Method("dare_linear", {"density": 0.1}, *SCALED),
    "DARE TIES": Method("dare_ties", {"density": 0.1}, *SCALED),
    "breadcrumbs": Method("breadcrumbs_linear", {"density": 0.9}, *SCALED),
    "consensus TA": Method("consensus", {}, *SCALED),
    "Fisher": Method("fisher", moments="fisher"),
    "Fisher, normalized": Method(
        "fisher", {"normalize": True, "epsilon": 1e-6}, moments="fisher"
    ),
    "RegMean": Method("regmean", moments="gram"),
    "RegMean++": Method("regmean", moments="gram, by layers"),
    "ISO-C": Method("iso_c", {}, *SCALED),
    "TSV": Method("tsv", {}, *SCALED),
    "WUDI": Method("wudi", {"learning_rate": RATES[0]}),
    "WUDI, learning rate chosen": Method("wudi", {}, "learning_rate", RATES),
    "WUDI, exact": Method("wudi", {"solver": "exact"}),
}


class Merged(NamedTuple):
    """Accuracies of a method on the test parts, and the value that was chosen."""

    name: str
    accuracies: list[float]
    chosen: float | None = None


def merges(
    members: Members, evaluation: Evaluation, only: Sequence[str]
) -> Iterator[Merged]:
    """Accuracies of the base, of the members, of their merges and of ensembles."""
    states = [members.by_task[task.name] for task in evaluation.tasks]
    yield Merged("base", evaluation.accuracies(members.base))
    yield Merged("fine-tuned", own(states, evaluation))
    if "magnitude_prune" in RULES:
        yield Merged(TRIMMED, own(trimmed(members.base, states), evaluation))
    best = max(states, key=lambda s: np.mean(evaluation.accuracies(s, "validation")))
    yield Merged("best single model", evaluation.accuracies(best))
    yield Merged("multi-task training", evaluation.accuracies(members.multi_task))
    yield Merged("prediction ensemble", evaluation.ensemble(states))
    data = Data(evaluation.backbone, evaluation.tasks, states)
    for name, method in METHODS.items():
        if name in only and method.rule in RULES:
            yield merged(name, method, members.base, states, evaluation, data)


def own(states: Sequence[State], evaluation: Evaluation) -> list[float]:
    """Accuracy of each model on the task that it was fine-tuned on."""
    pairs = zip(states, evaluation.tasks, strict=True)
    return [evaluation.accuracy(state, task) for state, task in pairs]


def trimmed(base: State, states: Sequence[State]) -> list[State]:
    """Fine-tuned models with 20 % of their changes, as TIES keeps."""
    options = {"rule": "magnitude_prune", "rule_params": {"density": 0.2}}
    return [average([state], base=base, **options) for state in states]


def merged(
    name: str,
    method: Method,
    base: State,
    states: Sequence[State],
    evaluation: Evaluation,
    data: Data,
) -> Merged:
    """Accuracies of a method, with the value that is best on validation data."""

    def merge(value: float | None) -> State:
        params = dict(method.params)
        if method.tried:
            params[method.tried] = value
        if method.moments == "gram, by layers":
            return data.merge_by_layers(params)
        needs_base = RULES[method.rule].needs_base
        options: dict[str, Any] = {"base": base} if needs_base else {}
        if method.moments:
            options["moments"] = data.moments(method.moments)
        key = f"{method.rule} {sorted(params.items())}"
        if key not in data.merged:
            data.merged[key] = average(
                states, rule=method.rule, rule_params=params, **options
            )
        return data.merged[key]

    # `scale` multiplies the difference to the base in each rule that has it.
    unscaled = merge(1.0) if method.tried == "scale" else None

    def score(value: float) -> float:
        state = scaled(unscaled, base, value) if unscaled else merge(value)
        return float(np.mean(evaluation.accuracies(state, "validation")))

    best = max(method.values, key=score, default=None)
    return Merged(name, evaluation.accuracies(merge(best)), best)


def scaled(state: State, base: State, scale: float) -> State:
    """Parameters whose difference to the base is multiplied."""
    return {name: base[name].lerp(tensor, scale) for name, tensor in state.items()}


class Data:
    """Merges that were made, and moments of the members' training data.

    Both are kept: steps of WUDI take minutes, and two rows have the same.
    """

    def __init__(
        self, backbone: nn.Module, tasks: Sequence[Task], states: Sequence[State]
    ) -> None:
        self.backbone = backbone
        self.tasks = tasks
        self.states = states
        self.merged: dict[str, State] = {}
        self._moments: dict[str, list[Any]] = {}

    def moments(self, kind: str) -> list[Any]:
        """Moments of all members."""
        if kind not in self._moments:
            collect = {"gram": self._gram, "fisher": self._fisher}[kind]
            pairs = zip(self.tasks, self.states, strict=True)
            self._moments[kind] = [collect(*pair) for pair in pairs]
        return self._moments[kind]

    def _gram(self, task: Task, state: State) -> Any:
        from ensembles.checkpoints import collect_gram

        model = with_state(self.backbone, state)
        return collect_gram(model, batches(task.train, N_EXAMPLES), reduction="mean")

    def _fisher(self, task: Task, state: State) -> Any:
        from ensembles.checkpoints import collect_fisher

        def logits(model: nn.Module, example: Any) -> Tensor:
            return SHARPNESS * normalize(model(**example)) @ task.head.T

        model = with_state(self.backbone, state)
        rows = batches(task.train, N_FISHER)
        return collect_fisher(model, rows, forward=logits)

    def merge_by_layers(self, params: Mapping[str, Any]) -> State:
        """RegMean++: inputs of a layer come from the merged layers below it."""
        from ensembles.checkpoints import regmean_plus_plus

        models = [
            with_state(copy.deepcopy(self.backbone), state) for state in self.states
        ]
        data = [batches(task.train, N_EXAMPLES) for task in self.tasks]
        merged = regmean_plus_plus(models, data, reduction="mean", **params)
        return {name: merged[name] for name in self.states[0]}


def batches(part: Part, n_rows: int) -> list[dict[str, Tensor]]:
    """Inputs of the first rows."""
    rows = torch.arange(min(n_rows, len(part.labels)))
    return [part.rows(chosen).inputs for chosen in rows.split(BATCH_SIZE)]
