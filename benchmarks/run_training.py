"""Training runs of a small GPT on the characters of a text, for `bench_runs`.

All runs of a seed have the same initialization, and in step t the same batch. A
finished run is recorded in its folder and not repeated.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import measuring
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ensembles.checkpoints import sigma_rel_to_gamma
from ensembles_cli.demo.language_model import CHARACTERS, encode, split
from ensembles_cli.demo.nanogpt import GPT, Size, next_token_loss

TEXTS = {"tinyshakespeare": "tinyshakespeare.txt", "wikitext": "wikitext2.valid.txt"}
N_SNAPSHOTS = 40
N_WINDOWS = 16  # batch size
WARM_UP = 1 / 20  # of the run
DECAY = 1 / 5  # of the run, at its end
HALF_LIVES = (0.5, 1, 2, 4, 8)  # of averages kept in every step, in snapshots
STORED_SIGMAS = (0.05, 0.1)  # of the two power-function averages, as in EDM2
DIRECT_SIGMA = 0.15  # of a third one, to compare post-hoc EMA with
SHAPES = {
    "linear": lambda progress: 1 - progress,
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
}


class Settings(NamedTuple):
    """Length and learning rate of all runs."""

    n_steps: int
    rate: float

    @property
    def every(self) -> int:
        """Steps between two snapshots."""
        return self.n_steps // N_SNAPSHOTS


class Run(NamedTuple):
    """A training run: constant rate after the warm-up, then a decay to zero.

    It starts from the state of the run with constant rate at the step ``start``.
    """

    name: str
    n_steps: int
    start: int = 0
    shape: str | None = None
    decay_from: int = 0


class Windows(NamedTuple):
    """Windows of characters: overlapping ones for training, disjoint ones held out."""

    training: Tensor
    validation: Tensor
    test: Tensor


def runs(settings: Settings) -> list[Run]:
    """All runs of a seed; the decay branches of two lengths start from the first."""
    n_steps, warm_up = settings.n_steps, round(WARM_UP * settings.n_steps)
    branches = [
        Run(f"WSD {shape}, {length} steps", length, start, shape, start)
        for length in (n_steps // 2, n_steps)
        for start in [round((1 - DECAY) * length)]
        for shape in ("linear", "1-sqrt")
    ]
    return [
        Run("constant", n_steps),
        *branches,
        Run("cosine", n_steps, 0, "cosine", warm_up),
    ]


def windows(text: str) -> Windows:
    """Windows of a text; every second one of the last tenth is evaluated.

    The first third is for validation, the rest for the test.
    """
    path = measuring.data() / "text" / TEXTS[text]
    training, held_out = split(
        encode(path.read_text(encoding="utf-8")), Size(0).context
    )
    held_out = held_out[::2]  # it halves the time of an evaluation
    third = len(held_out) // 3
    return Windows(training, held_out[:third], held_out[third:])


def train_all(
    folder: Path,
    settings: Settings,
    training: Tensor,
    seed: int,
    names: Sequence[str] = (),
) -> None:
    """Train all runs of a seed, or the ones with these names, that are not recorded."""
    for run in runs(settings):
        record = folder / run.name / "finished.json"
        if not record.exists() and (not names or run.name in names):
            started = time.process_time()
            train(folder, run, settings, training, seed)
            seconds = round(time.process_time() - started, 1)
            record.write_text(json.dumps({"cpu_seconds": seconds}) + "\n")
            print(time.strftime("%T"), folder, run.name, seconds, "s", flush=True)


def train(
    folder: Path, run: Run, settings: Settings, training: Tensor, seed: int
) -> None:
    """Train one run and save its snapshots."""
    torch.manual_seed(seed)
    model = GPT(Size(len(CHARACTERS)))
    optimizer = torch.optim.AdamW(
        model.parameters(), settings.rate, betas=(0.9, 0.95), fused=True
    )
    if run.start:
        state = torch.load(folder / "constant" / f"state-{run.start:05d}.pt")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    path = folder / run.name
    path.mkdir(parents=True, exist_ok=True)
    branch_steps = {other.start for other in runs(settings)} - {0}
    averages = [] if run.shape else kept_averages(model, settings)
    for step in range(run.start + 1, run.n_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * rate_factor(run, settings, step)
        take_step(model, optimizer, training, seed, step)
        for average in averages:
            average.update(step)
        if step % settings.every == 0:
            save(parameters(model), path / f"step-{step:05d}.safetensors")
            for average in averages:
                save(average.state(step), average.path(path, step))
        if not run.shape and step in branch_steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, path / f"state-{step:05d}.pt")


def rate_factor(run: Run, settings: Settings, step: int) -> float:
    """Learning rate of a step, counted from 1, divided by the peak rate."""
    warm_up = min(step / (WARM_UP * settings.n_steps), 1.0)
    if run.shape is None or step <= run.decay_from:
        return warm_up
    n_decay = run.n_steps - run.decay_from
    return warm_up * SHAPES[run.shape]((step - 1 - run.decay_from) / n_decay)


def take_step(
    model: GPT, optimizer: Any, training: Tensor, seed: int, step: int
) -> None:
    """Take one step on the batch of this seed and step."""
    generator = torch.Generator().manual_seed(1_000_000 * (seed + 1) + step)
    rows = torch.randint(len(training), (N_WINDOWS,), generator=generator)
    optimizer.zero_grad()
    next_token_loss(model, training[rows]).backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


class KeptAverage:
    """Average of the parameters after all steps, kept in float32 while training.

    Parameters
    ----------
    name : str
        Name of its folder.
    model : GPT
        Model that is trained.
    half_life : float or None
        Half-life of the exponential weights in steps; None for a power function.
    gamma : float, default=0
        Exponent of the power function.
    """

    def __init__(
        self, name: str, model: GPT, half_life: float | None, gamma: float = 0
    ) -> None:
        self.name = name
        self.half_life = half_life
        self.gamma = gamma
        self._parameters = dict(model.named_parameters())
        self._mean = [torch.zeros_like(p) for p in self._parameters.values()]

    def update(self, step: int) -> None:
        """Add the parameters after this step, so that the weights always sum to 1."""
        if self.half_life is None:
            share = 1 - (1 - 1 / step) ** (self.gamma + 1)
        else:
            decay = 0.5 ** (1 / self.half_life)
            share = (1 - decay) / (1 - decay**step)
        with torch.no_grad():
            torch._foreach_lerp_(self._mean, list(self._parameters.values()), share)

    def state(self, step: int) -> dict[str, Tensor]:
        """Tensors of the average, by name."""
        return dict(zip(self._parameters, self._mean, strict=True))

    def path(self, run: Path, step: int) -> Path:
        """File of the average after this step."""
        return kept_path(run, self.name, step)


def kept_path(run: Path, name: str, step: int) -> Path:
    """File of an average that was kept while training."""
    return run / name / f"step-{step:05d}.safetensors"


def kept_averages(model: GPT, settings: Settings) -> list[KeptAverage]:
    """Averages that the run with constant rate keeps."""
    exponential = [
        KeptAverage(f"half-life-{half_life}", model, half_life * settings.every)
        for half_life in HALF_LIVES
    ]
    power = [
        KeptAverage(f"power-{sigma}", model, None, sigma_rel_to_gamma(sigma))
        for sigma in (*STORED_SIGMAS, DIRECT_SIGMA)
    ]
    return exponential + power


def parameters(model: GPT) -> dict[str, Tensor]:
    """Parameters by name, tied ones once."""
    return {name: value.detach() for name, value in model.named_parameters()}


def save(state: Mapping[str, Tensor], path: Path) -> None:
    """Save tensors in a file, with its folder."""
    path.parent.mkdir(exist_ok=True)
    save_file(dict(state), path)


def snapshots(run: Path, until: int) -> Iterator[tuple[int, Path]]:
    """Steps and files of the snapshots of a run up to a step, in order."""
    for path in sorted(run.glob("step-*.safetensors")):
        step = int(path.stem.removeprefix("step-"))
        if step <= until:
            yield step, path


def load(state: Mapping[str, Any]) -> GPT:
    """The model with these parameters."""
    model = GPT(Size(len(CHARACTERS)))
    tensors = {name: torch.as_tensor(value) for name, value in state.items()}
    absent, extra = model.load_state_dict(tensors, strict=False)
    assert absent == ["head.weight"], absent  # tied to the embedding
    assert not extra, extra
    return model


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of a snapshot."""
    return load_file(path)
