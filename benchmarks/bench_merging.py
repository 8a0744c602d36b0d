"""How much time and memory does merging with a base take, compared with copying?

Members are the checkpoints of `bench_checkpoints`: Llama-shaped, in bfloat16, three
shards each; three of them with a base, whose changes are in all elements or in 30 % of
them. Methods without a base merge two or three of them. Each method is a command of
its own, measured from start to end; the commands take turns, and ratios to the floor
exclude start-up, as there.

Before anything is measured, results are compared with float64: all tensors of small
members, and some of the large ones. Methods that the library does not have yet are
left out, and named.
"""  # noqa: D400  # a question

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import llama
import measuring
import merging_methods
import merging_report
import numpy as np
from bench_checkpoints import SMALL, Bench, files, say
from merging_methods import METHODS, Method

from ensembles.checkpoints.methods.builtin import RULES

KINDS = {"dense": 1.0, "sparse": 0.3}  # share of elements that a member has changed
QUICK = {"parameters": 0.05e9, "rounds": 1}
LARGEST_CHECKED = 12_000_000  # elements
N_CHECKED = 4  # tensors of the large members
MOST_WRONG = 1e-6  # share of elements, where float32 decides which are selected
PRECISION, LEAST = 1e-9, 1e-15  # relative and absolute error of the float64 results


def main() -> None:
    """Check, measure, print and save the results."""
    options = parse()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        bench = MergingBench(Path(folder), options)
        facts = bench.facts()
        for kind in options.kinds:
            bench.kind = kind
            facts["elements_checked"] += sum(map(bench.check_method, bench.chosen()))
            for n_inputs in sorted({METHODS[name].n_inputs for name in bench.chosen()}):
                facts["results"] += bench.rows(n_inputs, kind)
                save(facts, options.results)
    print(merging_report.markdown(facts))


def save(facts: dict[str, Any], folder: Path | None) -> None:
    """Write the results so far: a run takes long, and may be stopped."""
    if folder is not None:
        folder.mkdir(exist_ok=True)
        (folder / "merging.md").write_text(merging_report.markdown(facts))
        (folder / "merging.json").write_text(json.dumps(facts, indent=1))


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--parameters", type=float, default=0.6e9, help="of each member")
    add("--rounds", type=int, default=5)
    add("--peer", metavar="PYTHON", help="interpreter that has mergekit")
    add("--folder", type=Path, help="where checkpoints are made, on a disk")
    add("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    add("--only", nargs="+", choices=METHODS, default=[*METHODS], metavar="METHOD")
    add("--quick", action="store_true", help="small members, one round")
    add("--results", type=Path, help="folder to keep results in")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    return options


class MergingBench(Bench):
    """A base and its members on a disk, and the costs of all ways to merge them."""

    kind = "dense"

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        super().__init__(folder, options)
        rules = {name: METHODS[name].rule for name in options.only}
        self.methods = [name for name, rule in rules.items() if rule in RULES]
        self.unknown = [name for name, rule in rules.items() if rule not in RULES]
        say(f"not registered, and left out: {', '.join(self.unknown) or 'none'}")

    def chosen(self) -> list[str]:
        """Methods to measure; without a base, sparse changes make no difference."""
        return [n for n in self.methods if self.kind == "dense" or METHODS[n].has_base]

    def facts(self) -> dict[str, Any]:
        """What the results depend on."""
        machine = measuring.machine()
        if self.options.peer:
            machine["mergekit"] = measuring.version_in(self.options.peer, "mergekit")
        return {
            "date": date.today().isoformat(),
            "command": measuring.command(),
            "machine": machine,
            "parameters": llama.n_parameters(self.shapes),
            "bytes_per_member": self.n_bytes,
            "rounds": self.options.rounds,
            "methods": {
                name: {
                    "inputs": METHODS[name].n_inputs,
                    "params": dict(METHODS[name].params),
                    "limit": METHODS[name].limit,
                }
                for name in self.methods
            },
            "left_out": self.unknown,
            "elements_checked": 0,
            "results": [],
        }

    def command(self, way: str, members: Sequence[Path]) -> list[str]:
        """Command line of a way, which writes to ``self.out``."""
        return merging_methods.command(way, self.out, members, self.options.peer)

    def members(self, n_members: int) -> list[Path]:
        """Inputs of a number, the base first if there are four."""
        return self._inputs("large", self.shapes, n_members, 3)

    def small_members(self, n_members: int) -> list[Path]:
        """Inputs of 1 MB each, whose cost is start-up."""
        return self._inputs("small", SMALL, n_members, 1)

    def _inputs(
        self, size: str, shapes: llama.Layout, n_inputs: int, n_shards: int
    ) -> list[Path]:
        numbers: list[int | None] = [*([None] if n_inputs == 4 else []), 0, 1, 2]
        paths = []
        for number in numbers[:n_inputs]:
            name = "base" if number is None else f"{self.kind}-{number}"
            path = self.folder / f"{size}-{name}"
            if not path.exists():
                say(f"making {path.name}")
                density = KINDS[self.kind]
                llama.make(
                    path, shapes, member=number, n_shards=n_shards, density=density
                )
            paths.append(path)
        return paths

    def prepare(self, cache: str, members: Sequence[Path]) -> bool:
        """Bring the inputs into the page cache."""
        measuring.warm(files(members))
        return True

    def ways_for(self, n_members: int, cache: str) -> Iterator[str]:
        """Ways to measure with a number of inputs."""
        yield from ("floor", "floor + fsync")
        for name in self.chosen():
            if METHODS[name].n_inputs == n_members:
                yield f"ensemble {name}"
                # mergekit takes as long for sparse changes.
                has_peer = self.options.peer and self.kind == "dense"
                if has_peer and METHODS[name].peer:
                    yield f"mergekit {name}"

    def check_method(self, name: str) -> int:
        """Number of elements that were found right; also fills numba's cache."""
        say(f"checking {name}, {self.kind}")
        method = METHODS[name]
        n_checked = 0
        for inputs, shapes in (
            (self.small_members(method.n_inputs), SMALL),
            (self.members(method.n_inputs), self.shapes),
        ):
            self.cost(f"ensemble {name}", inputs)
            for tensors in checked_tensors(shapes, method):
                arrays = [joined(path, tensors, shapes) for path in inputs]
                out = np.concatenate([llama.tensor_of(self.out, t) for t in tensors])
                check(f"{name}, {tensors[0]}", method, out, arrays)
                n_checked += out.size
        return n_checked


def checked_tensors(shapes: llama.Layout, method: Method) -> list[list[str]]:
    """Names of tensors: all of small members, else some, and which are checked at once.

    A method that depends on the whole model is only checked on small members.
    """
    names = [name for name, shape in shapes.items() if np.prod(shape) < LARGEST_CHECKED]
    if method.is_whole_model:
        return [names] if shapes is SMALL else []
    if shapes is not SMALL:
        names = names[:: max(len(names) // N_CHECKED, 1)][:N_CHECKED]
    return [[name] for name in names]


def joined(path: Path, tensors: Sequence[str], shapes: llama.Layout) -> llama.Array:
    """Tensors in float64: one in its shape, several flat, one after the other."""
    arrays = [llama.tensor_of(path, name).astype(np.float64) for name in tensors]
    if len(arrays) == 1:
        return arrays[0].reshape(shapes[tensors[0]])
    return np.concatenate(arrays)


def check(
    name: str, method: Method, out: llama.Array, inputs: Sequence[llama.Array]
) -> None:
    """Compare tensors with the possible results of a method in float64."""
    base = inputs[0] if method.has_base else None
    stack = np.array(inputs[1:] if method.has_base else inputs)
    check_results(name, out, method.oracle(stack, base, **method.params))


def check_results(name: str, out: llama.Array, results: Iterable[llama.Array]) -> None:
    """Compare a flat tensor with the possible results in float64.

    An element is right if it is a bfloat16 number nearest to one of them.

    Raises
    ------
    ValueError
        If too many elements are wrong.
    """
    half = np.spacing(np.abs(out)).astype(np.float64) / 2
    values = out.astype(np.float64)
    is_right = np.zeros(out.size, bool)
    for result in results:
        exact = result.reshape(-1)
        if exact.shape != out.shape:
            raise ValueError(f"{name}: {out.size:,} elements, not {exact.size:,}")
        # Of two bfloat16 numbers that are as near, rounding errors choose one.
        slack = PRECISION * np.abs(exact) + LEAST
        is_right |= np.abs(values - exact) <= half + slack
    n_wrong = np.count_nonzero(~is_right)
    if n_wrong > MOST_WRONG * out.size:
        raise ValueError(
            f"{name}: {n_wrong:,} of {out.size:,} elements are not the nearest to "
            f"float64, such as {values[~is_right][0]}"
        )


if __name__ == "__main__":
    main()
