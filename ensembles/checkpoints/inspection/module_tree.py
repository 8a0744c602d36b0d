"""Trees of modules by tensor names, with layers of the same structure as one node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ensembles.checkpoints.formats.checkpoint import TensorInfo

DEEPEST = 100  # levels; the rest of a name, which may be hostile, is not split


@dataclass(frozen=True)
class Module:
    """A module with its tensors, or several modules of the same structure.

    Parameters
    ----------
    name : str
        Name within the parent, such as "layers.0-79" for 80 modules.
    n_modules : int
        Number of modules of the same structure.
    tensors : tuple of TensorInfo
        Tensors of the module itself, by name within it; those of the first module if
        there are several.
    children : tuple of Module
        Modules inside; those of the first module if there are several.
    """

    name: str
    n_modules: int
    tensors: tuple[TensorInfo, ...]
    children: tuple[Module, ...]

    @cached_property
    def n_tensors(self) -> int:
        """Number of tensors in all modules of this structure."""
        inside = sum(child.n_tensors for child in self.children)
        return self.n_modules * (len(self.tensors) + inside)

    @cached_property
    def n_parameters(self) -> int:
        """Number of elements in all modules of this structure."""
        own = sum(tensor.size for tensor in self.tensors)
        return self.n_modules * (own + sum(c.n_parameters for c in self.children))

    @cached_property
    def nbytes(self) -> int:
        """Number of bytes in all modules of this structure."""
        own = sum(tensor.nbytes for tensor in self.tensors)
        return self.n_modules * (own + sum(child.nbytes for child in self.children))

    @cached_property
    def dtypes(self) -> Counter[str]:
        """Number of elements of each dtype, in all modules of this structure."""
        total: Counter[str] = Counter()
        for tensor in self.tensors:
            total[tensor.dtype] += self.n_modules * tensor.size
        for child in self.children:
            for dtype, size in child.dtypes.items():
                total[dtype] += self.n_modules * size
        return total

    @cached_property
    def structure(self) -> tuple[object, ...]:
        """Names, dtypes and shapes inside, equal for modules of the same structure."""
        return (
            self.n_modules,
            tuple((tensor.name, tensor.dtype, tensor.shape) for tensor in self.tensors),
            tuple((child.name, child.structure) for child in self.children),
        )


@dataclass
class _Node:
    """A module under construction."""

    tensors: list[TensorInfo] = field(default_factory=list)
    children: dict[str, _Node] = field(default_factory=dict)


def module_tree(tensors: Iterable[TensorInfo]) -> Module:
    """Tree of the modules that hold tensors, by the dots in the tensor names.

    Numbered modules with the same names, dtypes and shapes inside are one node, and a
    module that holds nothing but one other module is joined with it.

    Parameters
    ----------
    tensors : iterable of TensorInfo
        Tensors by name, with dots between modules.

    Returns
    -------
    Module
        Root, with an empty name.

    Examples
    --------
    >>> names = ["emb.weight", "h.0.fc.weight", "h.1.fc.weight", "h.2.weight"]
    >>> tensors = [TensorInfo(name, "float32", (2,), 8) for name in names]
    >>> [child.name for child in module_tree(tensors).children]
    ['emb', 'h']
    >>> [child.name for child in module_tree(tensors).children[1].children]
    ['0-1.fc', '2']
    """
    root = _Node()
    for tensor in tensors:
        *modules, last = tensor.name.split(".", DEEPEST)
        node = root
        for module in modules:
            node = node.children.setdefault(module, _Node())
        node.tensors.append(tensor._replace(name=last))
    return Module("", 1, tuple(root.tensors), _children(root))


def _children(node: _Node) -> tuple[Module, ...]:
    """Finished modules inside a node; numbered ones are grouped by structure."""
    groups: dict[object, list[tuple[str, Module]]] = {}
    for name, child in node.children.items():
        module = Module(name, 1, tuple(child.tensors), _children(child))
        key = module.structure if name.isdecimal() else name
        groups.setdefault(key, []).append((name, module))
    return tuple(map(_joined, groups.values()))


def _joined(group: Sequence[tuple[str, Module]]) -> Module:
    """One module for a group, and for a single module inside of it."""
    name, module = group[0]
    if len(group) > 1:
        name = _ranges([int(number) for number, _ in group])
    if not module.tensors and len(module.children) == 1:
        (only,) = module.children
        n_modules = len(group) * only.n_modules
        return Module(f"{name}.{only.name}", n_modules, only.tensors, only.children)
    return Module(name, len(group), module.tensors, module.children)


def _ranges(numbers: Iterable[int]) -> str:
    """Text of numbers, with consecutive ones as a range.

    >>> _ranges([0, 1, 2, 4, 7, 6])
    '0-2,4,6-7'
    """
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(f"{a}-{b}" if a < b else f"{a}" for a, b in ranges)
