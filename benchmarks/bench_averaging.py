"""How long does an average that is kept while training take, in each step?

Tensors of a Llama-shaped model in float32 and in bfloat16. Each way of updating an
average is measured, and two floors: `torch._foreach_lerp_` into float32 averages, and
one pass that reads the parameters, and reads and writes the averages, without
arithmetic between them. Before anything is measured, averages of 200 steps are
compared with a loop in float64.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import llama
import measuring
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ensembles.checkpoints import EMA, SWA, ParameterAverage, PowerEMA

DECAY = 0.999
WARM_UP = 10  # updates that are not counted; the tenth is that of every=10
THREE = {"ema": EMA(DECAY), "swa": SWA(), "power": PowerEMA(gamma=6.94)}
DTYPES = (torch.float32, torch.bfloat16)
LERP, PASS = "torch lerp, float32", "read and write once"
EVERY = "ParameterAverage, every=10"
WAYS = (
    LERP,
    PASS,
    "AveragedModel",
    "Kahan, float32",
    "ParameterAverage, float32",
    "ParameterAverage",
    EVERY,
    "ParameterAverage, three averages",
)


def main() -> None:
    """Check, measure, print and save the results."""
    options = parse()
    check()
    rows = []
    for dtype in DTYPES:
        members = make(llama.layout_of_size(options.parameters), dtype)
        seconds: dict[str, list[float]] = defaultdict(list)
        for way in WAYS:
            step = prepared(way, members)
            for index in range(options.rounds + WARM_UP):
                started = time.perf_counter()
                step()
                if index >= WARM_UP:
                    seconds[way].append(time.perf_counter() - started)
            del step
        seconds[EVERY] = [sum(seconds[EVERY]) / options.rounds]
        rows += [row(way, dtype, seconds) for way in WAYS]
    facts = {
        "date": date.today().isoformat(),
        "command": measuring.command(),
        "machine": measuring.machine(),
        "threads": torch.get_num_threads(),
        "parameters": sum(member.numel() for member in members.values()),
        "rounds": options.rounds,
        "results": rows,
    }
    text = markdown(facts)
    print(text)
    if options.results:
        options.results.mkdir(exist_ok=True)
        (options.results / "averaging.md").write_text(text)
        (options.results / "averaging.json").write_text(json.dumps(facts, indent=1))


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--parameters", type=float, default=0.03e9, help="of the model")
    add("--rounds", type=int, default=30, help="a multiple of 10")
    add("--results", type=Path, help="folder to keep results in")
    return parser.parse_args()


def make(shapes: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Random parameters of a model."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(tuple(shape), generator=generator).to(dtype)
        for name, shape in shapes.items()
    }


def prepared(way: str, members: dict[str, Tensor]) -> Callable[[], None]:
    """Function that updates averages of the members once."""
    tensors = [*members.values()]
    if way == LERP:
        shadows = [tensor.float().clone() for tensor in tensors]
        return lambda: lerp(shadows, tensors)
    if way == PASS:
        wide = [tensor.double() for tensor in tensors]
        return lambda: read_and_write(wide, tensors)
    if way == "Kahan, float32":
        kahan = Kahan(tensors)
        return lambda: kahan.update(tensors)
    if way == "AveragedModel":
        model = torch.nn.ParameterList(tensors)
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
        return lambda: averaged.update_parameters(model)
    averages: Any = THREE if "three" in way else EMA(DECAY)
    if "every" in way:
        averages = EMA(DECAY, every=10)
    dtype = torch.float32 if "float32" in way else None
    return ParameterAverage(members, averages, dtype=dtype).update


def lerp(shadows: list[Tensor], tensors: list[Tensor]) -> None:
    """Update float32 averages as torch does."""
    torch._foreach_lerp_(shadows, [tensor.float() for tensor in tensors], 1 - DECAY)


def read_and_write(wide: list[Tensor], tensors: list[Tensor]) -> None:
    """Read parameters, and read and write averages."""
    for tensor in tensors:
        tensor.view(-1).view(torch.float64).sum()  # of bits, which are not numbers
    for tensor in wide:
        tensor.neg_()


class Kahan:
    """Float32 averages with compensated sums, in torch's operations on lists."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.sums = [tensor.float().clone() for tensor in tensors]
        self.lost = [torch.zeros_like(total) for total in self.sums]

    def update(self, tensors: list[Tensor]) -> None:
        """Move the averages towards the parameters."""
        change = torch._foreach_sub([tensor.float() for tensor in tensors], self.sums)
        torch._foreach_sub_(change, self.lost)
        torch._foreach_mul_(change, 1 - DECAY)
        torch._foreach_add_(change, self.lost)
        new = torch._foreach_add(self.sums, change)
        torch._foreach_sub_(self.sums, new)
        torch._foreach_add_(self.sums, change)
        self.sums, self.lost = new, self.sums


def check() -> None:
    """Stop if an average of 200 steps differs from a loop in float64."""
    for dtype in DTYPES:
        members = make({"a": (300, 400), "b": (7,)}, dtype)
        kept = ParameterAverage(members, THREE)
        narrow = ParameterAverage(members, EMA(DECAY), dtype=torch.float32)
        kahan = Kahan([*members.values()])
        expected: dict[str, Tensor] = {}
        for step in range(1, 201):
            for tensor in members.values():
                tensor.add_(torch.randn_like(tensor) / 8)
            kept.update()
            narrow.update()
            wide = members["a"].double()
            if step == 1:
                expected = dict.fromkeys(THREE, wide)
                kahan = Kahan([*members.values()])
                continue
            kahan.update([*members.values()])
            swa, power = 1 - 1 / step, (1 - 1 / step) ** 7.94
            for name, share in {"ema": DECAY, "swa": swa, "power": power}.items():
                expected[name] = share * expected[name] + (1 - share) * wide
        for name, oracle in expected.items():
            difference = (kept.state_dict()[name]["a"] - oracle).abs().max()
            if difference > 1e-12:
                raise SystemExit(f"{name}: differs from float64 by {difference}")
        for found, limit in (
            (narrow.state_dict()["ema"]["a"], 1e-5),
            (kahan.sums[0], 1e-6),
        ):
            if (found - expected["ema"]).abs().max() > limit:
                raise SystemExit("a float32 average differs from float64")


def row(
    way: str, dtype: torch.dtype, seconds: dict[str, list[float]]
) -> dict[str, Any]:
    """Time of a way, and its ratios to both floors."""
    own = measuring.spread(seconds[way])
    facts: dict[str, Any] = {"way": way, "dtype": str(dtype).removeprefix("torch.")}
    facts |= {"seconds": own}
    for floor in (LERP, PASS):
        facts[floor] = own["median"] / measuring.spread(seconds[floor])["median"]
    return facts


def markdown(facts: dict[str, Any]) -> str:
    """Results as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    lines = [
        f"# Averages kept while training, {facts['date']}",
        "",
        f"`{facts['command']}`",
        "",
        f"{facts['parameters']:,} parameters, {facts['rounds']} updates of each way, "
        f"{facts['threads']} threads. Averages of 200 steps were equal to a loop in "
        "float64 before.",
        "",
        machine + ".",
        "",
        "Milliseconds of an update: median (minimum to maximum); with `every=10` the "
        "mean. Ratios are those of the medians.",
        "",
        f"| parameters | way | ms | ÷ {LERP} | ÷ {PASS} |",
        "|---|---|--:|--:|--:|",
    ]
    for entry in facts["results"]:
        values = [1000 * entry["seconds"][key] for key in ("median", "min", "max")]
        shown = "{:.1f} ({:.1f} to {:.1f})".format(*values)
        ratios = [f"{entry[floor]:.2f}" for floor in (LERP, PASS)]
        lines.append(
            f"| {' | '.join([entry['dtype'], entry['way'], shown, *ratios])} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
