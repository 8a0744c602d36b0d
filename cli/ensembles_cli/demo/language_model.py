"""Demo, part 2: the average of the last checkpoints of a small GPT."""

from __future__ import annotations

import pydoc_data.topics
from pathlib import Path

import torch
from safetensors.torch import load_model
from torch import Tensor

from ensembles_cli.demo.console import DemoConsole
from ensembles_cli.demo.nanogpt import GPT, Size, next_token_loss

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
    average = folder / "averaged.safetensors"
    last = ["--last", str(N_AVERAGED)]
    console.run_command("avg", str(run), *last, "-o", str(average), "--force")
    load_model(model, average)
    report(losses, loss_of(model, validation), console)


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
) -> dict[int, float]:
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
    dict of int to float
        Validation loss of each checkpoint by its step.
    """
    training, validation = windows
    clear_checkpoints(run)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    losses = {}
    for step in console.track(range(1, N_STEPS + 1), "training"):
        take_step(model, optimizer, training)
        if step % EVERY == 0:
            state = {"model": model.state_dict(), "step": step}
            torch.save(state, run / f"step-{step:05d}.pt")
            losses[step] = loss_of(model, validation)
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


def loss_of(model: GPT, validation: Tensor) -> float:
    """Validation loss in nats per character."""
    with torch.no_grad():
        return next_token_loss(model, validation).item()


def report(losses: dict[int, float], averaged: float, console: DemoConsole) -> None:
    """Print the losses of the checkpoints and of their average."""
    best = min(losses, key=losses.__getitem__)
    lowest = min(averaged, losses[best])
    last = list(losses)[-N_AVERAGED:]
    rows = [
        [f"step {step}", "member" if step in last else "", format_loss(loss, lowest)]
        for step, loss in losses.items()
    ]
    mean = sum(losses[step] for step in last) / len(last)
    rows.append(["mean of losses", "", f"{mean:.3f}  "])
    rows.append(["averaged checkpoint", "", format_loss(averaged, lowest)])
    console.table(["checkpoint", "", "validation loss"], rows)
    console.print("Loss in nats per character. *: lowest loss.")
    console.print(compare_with_best_checkpoint(losses, averaged))


def format_loss(loss: float, lowest: float) -> str:
    """Format a loss, with a star if it is the lowest."""
    return f"{loss:.3f}{' *' if loss == lowest else '  '}"


def compare_with_best_checkpoint(losses: dict[int, float], averaged: float) -> str:
    """Sentences that compare the average with the best and the last checkpoint."""
    best = min(losses, key=losses.__getitem__)
    from_best, from_last = averaged - losses[best], averaged - losses[max(losses)]
    outcome = "beats" if from_best < 0 else "does not beat"
    return (
        f"The averaged checkpoint {outcome} the best checkpoint, step {best} "
        f"(difference {from_best:+.3f}), without further training. The difference to "
        f"the last checkpoint is {from_last:+.3f}."
    )
