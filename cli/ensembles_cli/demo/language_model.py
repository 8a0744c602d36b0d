"""Demo, part 2: the average of the last checkpoints of a small GPT."""

from __future__ import annotations

import importlib.util
import pydoc_data.topics
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model
from torch import Tensor

from ensembles.checkpoints import average
from ensembles.reports import RunDisplay
from ensembles_cli.demo.comparison import gain_of
from ensembles_cli.demo.console import DemoConsole
from ensembles_cli.demo.nanogpt import GPT, Size, next_token_loss, window_losses
from ensembles_cli.plot.images import write_image

CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))  # others become "?"
VALIDATION = 0.1  # share of the text, at its end, that is held out
N_STEPS = 2000
EVERY = 125  # steps between two checkpoints
N_AVERAGED = 5
N_WINDOWS = 24  # batch size
LEARNING_RATE = 4e-3  # constant and high: averaging replaces learning-rate decay


def train_language_model(folder: Path, console: DemoConsole) -> None:
    """Train a GPT, average its checkpoints and compare; they are saved in ``folder``.

    References
    ----------
    Kaddour (2022), "Stop wasting my time! Saving days of ImageNet and BERT training
    with latest weight averaging", arXiv:2209.14981.
    """
    torch.manual_seed(0)
    model = GPT(Size(len(CHARACTERS)))
    text = "\n\n".join(pydoc_data.topics.topics.values())
    training, validation = split(encode(text), model.positions.num_embeddings)
    console.title("Part 2: the average of the last checkpoints of one training run")
    console.print(
        f"A nanoGPT with {count(model):,} parameters ({count(model.blocks):,} in the "
        f"blocks) is trained on the characters of Python's documentation, at a "
        f"constant learning rate of {LEARNING_RATE:g}. It is evaluated on the last "
        f"{validation[:, 1:].numel():,} of {len(text):,} characters."
    )
    run = folder / "run"
    losses = train(model, (training, validation), run, console=console)
    out = folder / "averaged.safetensors"
    last = ["--last", str(N_AVERAGED)]
    console.run_command("avg", str(run), *last, "-o", str(out), "--force")
    load_model(model, out)
    report(losses, losses_of(model, validation), console)
    means = score_windows(model, run, validation)
    draw_run(losses, means, folder / "run.png", console)


def encode(text: str) -> Tensor:
    """Encode a text as character ids, of shape (n_characters,)."""
    numbers = {character: number for number, character in enumerate(CHARACTERS)}
    return torch.tensor([numbers.get(c, numbers["?"]) for c in text])


def split(tokens: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Windows of context + 1 tokens: all for training, disjoint ones for validation.

    The validation windows overlap by one token, so that no token is predicted twice.
    """
    end = round(len(tokens) * (1 - VALIDATION))
    length = context + 1
    return tokens[:end].unfold(0, length, 1), tokens[end:].unfold(0, length, context)


def count(module: torch.nn.Module) -> int:
    """Number of parameters; tied parameters count once."""
    return sum(parameter.numel() for parameter in module.parameters())


def train(
    model: GPT, windows: tuple[Tensor, Tensor], run: Path, *, console: DemoConsole
) -> dict[int, np.ndarray]:
    """Train a model and save a checkpoint every `EVERY` steps.

    Parameters
    ----------
    model : GPT
        Model, trained in place.
    windows : pair of tensors, each of shape (n_windows, context + 1)
        Training and validation windows of tokens.
    run : Path
        Directory of the checkpoints; checkpoints of an earlier run are removed.
    console : DemoConsole
        Console that draws the progress bar.

    Returns
    -------
    dict of int to ndarray of shape (n_windows,)
        Loss of each validation window, for each checkpoint by its step.
    """
    training, validation = windows
    clear_checkpoints(run)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    losses = {}
    for step in console.track(range(1, N_STEPS + 1), "training"):
        take_step(model, optimizer, training)
        if step % EVERY == 0:
            state = {"model": model.state_dict(), "step": step}
            torch.save(state, path_of(run, step))
            losses[step] = losses_of(model, validation)
    return losses


def take_step(model: GPT, optimizer: torch.optim.Optimizer, training: Tensor) -> None:
    """Take one optimizer step on a random batch of windows."""
    indices = torch.randint(len(training), (N_WINDOWS,))
    optimizer.zero_grad()
    next_token_loss(model, training[indices]).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def clear_checkpoints(run: Path) -> None:
    """Create the directory and remove checkpoints of an earlier run from it."""
    run.mkdir(parents=True, exist_ok=True)
    for path in run.glob("step-*.pt"):
        path.unlink()


def path_of(run: Path, step: int) -> Path:
    """Path of the checkpoint of a step."""
    return run / f"step-{step:05d}.pt"


def losses_of(model: GPT, validation: Tensor) -> np.ndarray:
    """Loss of each validation window, in nats per character."""
    with torch.no_grad():
        return window_losses(model, validation).numpy().astype(np.float64)


def score_windows(model: GPT, run: Path, validation: Tensor) -> dict[int, float]:
    """Validation loss of the mean of each `N_AVERAGED` consecutive checkpoints.

    Parameters
    ----------
    model : GPT
        Model that receives the parameters of each mean.
    run : Path
        Directory of the checkpoints.
    validation : tensor of shape (n_windows, context + 1)
        Validation windows.

    Returns
    -------
    dict of int to float
        Loss by the step of the last checkpoint of the mean.
    """
    means = {}
    for last in range(N_AVERAGED * EVERY, N_STEPS + 1, EVERY):
        first = last - (N_AVERAGED - 1) * EVERY
        members = [path_of(run, step) for step in range(first, last + 1, EVERY)]
        model.load_state_dict(average(members))
        means[last] = float(losses_of(model, validation).mean())
    return means


def draw_run(
    losses: dict[int, np.ndarray],
    means: dict[int, float],
    out: Path,
    console: DemoConsole,
) -> None:
    """Draw the losses of the checkpoints and of their means, if matplotlib is there."""
    if importlib.util.find_spec("matplotlib") is None:
        console.print(
            "To draw the losses along the run, install matplotlib: pip install "
            "'ensemble-avg[plot]'"
        )
        return
    display = RunDisplay(
        list(losses),
        [values.mean() for values in losses.values()],
        averages={
            f"mean of {N_AVERAGED} checkpoints": (list(means), list(means.values()))
        },
        metric="validation loss",
    )
    write_image(display.plot, out, force=True)
    console.print(
        f"The losses of all checkpoints, and of the means of {N_AVERAGED} consecutive "
        f"ones, are drawn in {out}."
    )


def report(
    losses: dict[int, np.ndarray], averaged: np.ndarray, console: DemoConsole
) -> None:
    """Print the losses of the checkpoints and of their average."""
    means = {step: float(values.mean()) for step, values in losses.items()}
    lowest = min(*means.values(), averaged.mean())
    last = list(means)[-N_AVERAGED:]
    rows = [
        [f"step {step}", "member" if step in last else "", format_loss(loss, lowest)]
        for step, loss in means.items()
    ]
    mean = sum(means[step] for step in last) / len(last)
    rows.append(["mean of losses", "", f"{mean:.3f}  "])
    rows.append(["averaged checkpoint", "", format_loss(averaged.mean(), lowest)])
    console.table(["checkpoint", "", "validation loss"], rows)
    console.print(
        "Loss in nats per character. *: lowest loss. ±: standard error; a difference "
        "of less than two is within noise."
    )
    console.print(compare_with_best_checkpoint(losses, averaged))


def format_loss(loss: float, lowest: float) -> str:
    """Format a loss, with a star if it is the lowest."""
    return f"{loss:.3f}{' *' if loss == lowest else '  '}"


def compare_with_best_checkpoint(
    losses: dict[int, np.ndarray], averaged: np.ndarray
) -> str:
    """Sentences that compare the average with the best and the last checkpoint."""
    best = min(losses, key=lambda step: float(losses[step].mean()))
    from_best, from_last = (
        gain_of(losses[step] - averaged) for step in (best, max(losses))
    )
    return (
        f"The averaged checkpoint {from_best.outcome} the best checkpoint, step {best} "
        f"(difference in loss {-from_best}), and {from_last.outcome} the last one "
        f"({-from_last}). It took no further training."
    )
