"""Tasks with a fixed head each, and their members: fine-tunes of one backbone."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

SHARPNESS = 20  # factor of the cosines in front of the softmax
WARM_UP = 0.1  # share of the steps in which the learning rate rises
MASK = "attention_mask"
State = dict[str, Tensor]


class Part(NamedTuple):
    """Rows of a task: inputs of the backbone by argument, and class indices."""

    inputs: dict[str, Tensor]
    labels: Tensor

    def rows(self, index: Tensor) -> Part:
        """Return a choice of rows, without the padding that all of them share."""
        inputs = {name: tensor[index] for name, tensor in self.inputs.items()}
        chosen = Part(inputs, self.labels[index])
        if MASK in inputs:
            longest = int(chosen.lengths().max())
            inputs |= {name: tensor[:, :longest] for name, tensor in inputs.items()}
        return chosen

    def lengths(self) -> Tensor:
        """Tokens of each row; 0 for images."""
        if MASK not in self.inputs:
            return torch.zeros(len(self.labels))
        return self.inputs[MASK].sum(1)


class Task(NamedTuple):
    """A task: its parts, and one vector of length 1 for each class, never trained."""

    name: str
    train: Part
    validation: Part
    test: Part
    head: Tensor


class Settings(NamedTuple):
    """Hyperparameters of the fine-tunes of one backbone."""

    n_steps: int
    learning_rate: float
    batch_size: int = 16
    n_shared_steps: int = 0  # of multi-task training


class Members(NamedTuple):
    """Parameters of the base, of one fine-tune a task, and of multi-task training."""

    base: State
    by_task: dict[str, State]
    multi_task: State


def state_of(backbone: nn.Module) -> State:
    """Copy of the parameters that are trained."""
    return {
        name: parameter.detach().clone()
        for name, parameter in backbone.named_parameters()
        if parameter.requires_grad
    }


def with_state(backbone: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Load parameters into the backbone; parameters that are not trained stay."""
    unexpected = backbone.load_state_dict(dict(state), strict=False).unexpected_keys
    assert not unexpected, unexpected
    return backbone.eval()


def members_of(
    backbone: nn.Module,
    tasks: Sequence[Task],
    settings: Settings,
    folder: Path,
    seed: int,
) -> Members:
    """Members that are in the folder, after training the missing ones."""
    return Members(
        state_of(backbone),
        {
            task.name: trained(
                folder / f"{task.name}.safetensors", backbone, [task], settings, seed
            )
            for task in tasks
        },
        trained(folder / "multi-task.safetensors", backbone, tasks, settings, seed),
    )


def trained(
    path: Path,
    backbone: nn.Module,
    tasks: Sequence[Task],
    settings: Settings,
    seed: int,
) -> State:
    """Parameters of a fine-tune of the backbone, which are kept in a file."""
    if not path.exists():
        model = copy.deepcopy(backbone)
        n_steps = settings.n_shared_steps if len(tasks) > 1 else settings.n_steps
        started = time.perf_counter()
        loss = train(model, tasks, settings._replace(n_steps=n_steps), seed)
        seconds = time.perf_counter() - started
        save(state_of(model), path, {**settings._asdict(), "loss": loss})
        print(f"{time.strftime('%T')} {path} {loss:.3f} {seconds:.0f} s", flush=True)
    return load(path, settings)


def save(state: State, path: Path, facts: dict[str, Any]) -> None:
    """Save parameters with the settings that they were trained by."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(state, partial, {"training": json.dumps(facts)})
    partial.rename(path)


def load(path: Path, settings: Settings) -> State:
    """Read parameters; the settings that they were trained by must be the same."""
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["training"])
    for name, value in settings._asdict().items():
        if facts[name] != value:
            raise SystemExit(
                f"{path} was trained with {name}={facts[name]}, not {value}; remove it"
            )
    return load_file(path)


def train(
    backbone: nn.Module, tasks: Sequence[Task], settings: Settings, seed: int
) -> float:
    """Fine-tune on batches of the tasks in turns; returns the mean loss at the end."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, fused=True)
    n_steps = settings.n_steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / (WARM_UP * n_steps), 1 - step / n_steps),
    )
    batches = [endless(task.train, settings.batch_size, generator) for task in tasks]
    losses = []
    backbone.train()
    for step in range(n_steps):
        batch = next(batches[step % len(tasks)])
        cosines = normalize(backbone(**batch.inputs)) @ tasks[step % len(tasks)].head.T
        loss = cross_entropy(SHARPNESS * cosines, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    backbone.eval()
    last = losses[-max(n_steps // 10, 1) :]
    return sum(last) / len(last)


def endless(part: Part, batch_size: int, generator: torch.Generator) -> Iterator[Part]:
    """Batches in random order, with rows of similar length, again and again."""
    n_batches = len(part.labels) // batch_size
    while True:
        noise = 8 * torch.rand(len(part.labels), generator=generator)
        order = (part.lengths() + noise).argsort()[: n_batches * batch_size]
        for index in torch.randperm(n_batches, generator=generator).tolist():
            yield part.rows(order[index * batch_size : (index + 1) * batch_size])
