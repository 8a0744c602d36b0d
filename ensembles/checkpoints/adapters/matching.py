"""Match the modules of adapters by name, also between the namings of PEFT and kohya."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ensembles.checkpoints.formats.lora.adapter import Adapter, LowRankUpdate, Naming
from ensembles.checkpoints.formats.lora.kohya import kohya_name

# Options of PEFT that change the meaning of an update or of its module.
SAME_MEANING = (
    *("fan_in_fan_out", "layer_replication", "target_parameters"),
    *("use_qalora", "qalora_group_size", "alora_invocation_tokens"),
    *("trainable_token_indices", "megatron_config"),
)


def in_naming(adapters: Sequence[Adapter], naming: Naming) -> list[Adapter]:
    """Adapters whose modules have the names of one naming.

    Parameters
    ----------
    adapters : sequence of Adapter
        Adapters of one base.
    naming : {"peft", "kohya", "diffusers"}
        Naming of the result. Names of kohya are replaced by those of another adapter
        that has the module: underscores do not say where dots were.

    Returns
    -------
    list of Adapter

    Raises
    ------
    ValueError
        If a name of kohya has no counterpart.
    """
    if naming == "kohya":
        return [_with_kohya_names(adapter) for adapter in adapters]
    others = [adapter for adapter in adapters if adapter.naming != "kohya"]
    paths = {kohya_name(name): name for adapter in others for name in adapter.updates}
    return [
        _with_paths(adapter, paths) if adapter.naming == "kohya" else adapter
        for adapter in adapters
    ]


def _with_kohya_names(adapter: Adapter) -> Adapter:
    if adapter.naming == "kohya":
        return adapter
    updates = {kohya_name(name): update for name, update in adapter.updates.items()}
    if len(updates) < len(adapter.updates):
        raise ValueError(
            f"{adapter.name} has two modules with the same name in the naming of "
            "kohya; pass a directory as output"
        )
    problem = next(iter(adapter.replaced), None)
    for name, update in adapter.updates.items():
        if update.n_experts > 1 or update.is_embedding or update.bias is not None:
            problem = name
    if problem is not None:
        raise ValueError(
            f"{adapter.name} has {problem!r}, for which kohya has no name (experts, "
            "embeddings, biases and whole modules); pass a directory as output"
        )
    return replace(adapter, updates=updates)


def _with_paths(adapter: Adapter, paths: Mapping[str, str]) -> Adapter:
    """Adapter of kohya with the paths of modules in the model."""
    unknown = [name for name in adapter.updates if name not in paths]
    if unknown:
        raise ValueError(
            f"{adapter.name} names modules as kohya does, such as {unknown[0]!r}, and "
            "no other adapter has the path of this module in the model; pass a file as "
            "output, such as merged.safetensors, to keep these names"
        )
    updates = {
        paths[name]: update._replace(weight=f"{paths[name]}.weight")
        for name, update in adapter.updates.items()
    }
    return replace(adapter, updates=updates)


def mismatches(adapters: Sequence[Adapter]) -> list[str]:
    """Reasons why the updates of adapters cannot be added.

    Parameters
    ----------
    adapters : sequence of Adapter
        Adapters with the names of one naming.

    Returns
    -------
    list of str
        Error messages; empty if the updates fit.
    """
    first, problems = adapters[0], []
    for adapter in adapters[1:]:
        if (
            adapter.naming != first.naming
            and not adapter.updates.keys() & first.updates
        ):
            problems.append(
                f"{adapter.name} and {first.name} name modules in different ways, and "
                f"have none in common: {next(iter(adapter.updates), '')!r} and "
                f"{next(iter(first.updates), '')!r}; convert one to the names of the "
                "other"
            )
    seen: dict[str, tuple[str, LowRankUpdate]] = {}
    for adapter in adapters:
        for option in SAME_MEANING:
            values = [_option(a.config, option) for a in (first, adapter)]
            if adapter.config and first.config and values[0] != values[1]:
                problems.append(
                    f"adapters must have the same {option}: {first.name} has "
                    f"{values[0]!r}, {adapter.name} has {values[1]!r}"
                )
        for module, update in adapter.updates.items():
            name, expected = seen.setdefault(module, (adapter.name, update))
            if _form(update) != _form(expected):
                problems.append(
                    f"adapters must update the same weights: module {module!r} has "
                    f"{_described(expected)} in {name}, {_described(update)} in "
                    f"{adapter.name}; they have different bases"
                )
    return problems


def _option(config: Mapping[str, object], option: str) -> object:
    """Value of an option; None if it is not used, as in files of older versions."""
    if option == "qalora_group_size" and not config.get("use_qalora"):
        return None
    return config.get(option) or None


def _form(update: LowRankUpdate) -> tuple[object, ...]:
    """What must be equal in all updates of a module."""
    return (
        *(update.n_outputs, update.n_inputs, update.kernel),
        *(update.n_experts, update.is_transposed),
    )


def _described(update: LowRankUpdate) -> str:
    size = f"{update.n_outputs} outputs and {update.n_inputs} inputs"
    if update.kernel:
        size += f" (kernel {'x'.join(map(str, update.kernel))})"
    if update.n_experts > 1:
        size += f", {update.n_experts} experts"
    return size


def missing_notes(adapters: Sequence[Adapter]) -> list[str]:
    """Notes on modules that some adapters lack: their update is zero.

    Parameters
    ----------
    adapters : sequence of Adapter
        Adapters with the names of one naming.

    Returns
    -------
    list of str
    """
    names = list(dict.fromkeys(name for a in adapters for name in a.updates))
    notes = []
    for adapter in adapters:
        absent = [name for name in names if name not in adapter.updates]
        if absent:
            notes.append(
                f"{adapter.name} has no update of {len(absent)} of {len(names)} "
                f"modules, such as {absent[0]!r}: it counts as zero there"
            )
    return notes
