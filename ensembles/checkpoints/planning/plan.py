"""The plan of an average: validation and sizes, from the headers of the members."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ensembles._typing import Float64
from ensembles.checkpoints.compatibility.layout import TensorPlan, match_layouts
from ensembles.checkpoints.compatibility.member_moments import (
    MomentsSource,
    add_moments,
)
from ensembles.checkpoints.compatibility.settings import TensorSettings
from ensembles.checkpoints.directories.open import Member
from ensembles.checkpoints.directories.unsupported import unsupported_reasons
from ensembles.checkpoints.formats.builtin import FORMATS
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Keys
from ensembles.checkpoints.formats.output import Template
from ensembles.checkpoints.methods.builtin import RULES
from ensembles.checkpoints.planning import shards
from ensembles.checkpoints.planning.buffers import count_held, fit_to_memory
from ensembles.checkpoints.planning.checksum_ranges import count_read
from ensembles.checkpoints.planning.destination import (
    destination_problems,
    output_format,
    resolved_link,
    storage_problems,
)
from ensembles.checkpoints.planning.foreign_rules import checked_rule
from ensembles.checkpoints.planning.kept_contents import kept_contents
from ensembles.checkpoints.planning.notices import (
    UNITS,
    base_problems,
    member_notes,
    notices,
    output_notes,
    unit_notes,
)
from ensembles.checkpoints.planning.opening import all_problems, open_all
from ensembles.checkpoints.planning.options import (
    MEMORY,
    Integers,
    MergeOptions,
    Missing,
)
from ensembles.checkpoints.planning.ranks import (
    assign,
    rank_notes,
    rank_problems,
    work_bytes,
)
from ensembles.checkpoints.planning.tensor_settings import (
    check_settings,
    collected,
    common_params,
    plain_params,
    scope_problems,
    subset_problems,
    weight_ranges,
    with_settings,
)
from ensembles.checkpoints.views.experts import expert_layout_problem
from ensembles.parallel import resolve_n_threads
from ensembles.rules.passes import Pass
from ensembles.rules.rule import Rule


@dataclass(frozen=True)
class Plan:
    """Validated plan of an average: inputs, computation and output.

    Parameters
    ----------
    members : tuple of Checkpoint
        Opened members, with the tensor names of the first.
    base : Checkpoint or None
        Opened base, the common ancestor of the members; None for rules without a base.
    moments : tuple of Checkpoint
        Opened second moments of the data of each member; empty for rules without them.
    rule : Rule
        Rule that combines them.
    weights : ndarray of shape (n_members,)
        Weight of each member, not normalized.
    rule_params : dict
        Parameters of the rule, by name.
    targets : list of TensorPlan
        Tensors of the result; a tied tensor is repeated for each name if the output's
        format does not store aliases, and in a directory if the first member is a
        PyTorch checkpoint.
    aliases : dict of str to str
        Additional names for tied tensors in the result: alias to name.
    untied : tuple of str
        Output layers that are no longer tied, so that ``tie_word_embeddings`` of the
        result must be false.
    out : Path or None
        Path of the output; None for a state dict in memory.
    format : str
        Name of the output's format in ``FORMATS``; "directory", or "memory" for a state
        dict.
    parts : dict of str to list of TensorPlan
        Tensors of each weight file in the order they are stored, by path relative to
        the directory; a single file has its name as the key, "memory" an empty string.
    templates : dict of str to Template
        File of the first member to copy, except for its tensors, for each weight file
        that keeps other contents.
    options : MergeOptions
        Validated options.
    threads : int
        Number of threads to use, at most ``options.threads``: fewer if
        ``options.memory`` is too small for more.
    read_bytes : int
        Bytes that this process reads from members, base and moments, again for each
        pass of rules with statistics.
    write_bytes : int
        Size in bytes of the result's tensors that this process writes.
    free_bytes : int
        Free bytes on the disk of the output; 0 in memory.
    peak_bytes : int
        Memory in bytes beyond that of the interpreter: read buffers and the part of
        the result that is held in memory.
    notes : tuple of str
        Messages for the user, one sentence each.
    """

    members: tuple[Checkpoint, ...]
    base: Checkpoint | None
    moments: tuple[Checkpoint, ...]
    rule: Rule
    weights: Float64
    rule_params: dict[str, Any]
    targets: list[TensorPlan]
    aliases: dict[str, str]
    untied: tuple[str, ...]
    out: Path | None
    format: str
    parts: dict[str, list[TensorPlan]]
    templates: dict[str, Template]
    options: MergeOptions
    threads: int
    read_bytes: int
    write_bytes: int
    free_bytes: int
    peak_bytes: int
    notes: tuple[str, ...]

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The members, then the base if there is one."""
        return self.members if self.base is None else (*self.members, self.base)

    @property
    def sources(self) -> tuple[Checkpoint, ...]:
        """All that is read: the members, the base if there is one, then the moments."""
        return (*self.checkpoints, *self.moments)

    def settings_of(self, target: TensorPlan) -> tuple[Float64, Mapping[str, Any]]:
        """Weights of the members and parameters of the rule for a tensor.

        Parameters
        ----------
        target : TensorPlan
            Tensor of the result.

        Returns
        -------
        (ndarray, mapping of str to value)
            One weight for each member that has the tensor.
        """
        if target.settings is None:
            holders = slice(None) if target.holders is None else [*target.holders]
            return self.weights[holders], self.rule_params
        return np.asarray(target.settings.weights), target.settings.rule_params

    def needed_passes(self, target: TensorPlan) -> tuple[Pass, ...]:
        """Passes of the rule over a tensor that its parameters require.

        Parameters
        ----------
        target : TensorPlan
            Tensor of the result.

        Returns
        -------
        tuple of Pass
        """
        return self.rule.needed_passes(target.params(self.rule_params))

    @property
    def weight_texts(self) -> list[str]:
        """Weight of each member; a range if it differs between tensors."""
        ranges = weight_ranges(self.targets, self.weights)
        return [f"{a:g}" if a == b else f"{a:g} to {b:g}" for a, b in ranges]

    @property
    def rule_text(self) -> str:
        """Name of the rule with its parameters."""
        params, varying = common_params(self.targets, self.rule_params)
        texts = [f"{name}={value!r}" for name, value in params.items()]
        texts += [f"{name} by tensor" for name in varying]
        return self.rule.name + f" ({', '.join(texts)})" * bool(texts)

    @property
    def assigned(self) -> list[str]:
        """Weight files that this process writes; all without ``world_size``."""
        return assign(self.parts, self.options.world_size or 1)[self.options.rank]

    @property
    def is_conversion(self) -> bool:
        """Whether all tensors are copied from a single member."""
        is_copied = all(target.action == "copy" for target in self.targets)
        return is_copied and len(self.members) == 1 and not self.members[0].adapters


def plan(
    members: Sequence[Member],
    out: str | os.PathLike[str] | None = None,
    *,
    base: Member | None = None,
    base_may_be_member: bool = False,
    moments: Sequence[MomentsSource] | None = None,
    rule: str | Rule = "mean",
    weights: ArrayLike | None = None,
    rule_params: Mapping[str, Any] | None = None,
    settings: Mapping[str, TensorSettings] | None = None,
    dtype: str | None = None,
    integers: Integers = "error",
    missing: Missing = "error",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    key: Keys = None,
    shard_size: int | None = None,
    only_weights: bool | None = None,
    memory: int = MEMORY,
    threads: int | None = None,
    force: bool = False,
    rank: int = 0,
    world_size: int | None = None,
) -> Plan:
    """Plan an average from the headers of its members.

    Tensors are read only to detect tied weights that the headers do not show, and
    samples of them to recognize the member that moments belong to.

    Parameters
    ----------
    members : sequence of paths or state dicts, at least one
        Checkpoint files, directories, or mappings of names to arrays or tensors.
    out : path or None, default=None
        Path of the output: a safetensors file (``.safetensors``), a PyTorch file
        (``.pt``, ``.pth``, ``.bin``, ``.ckpt``), a NumPy archive (``.npz``), a GGUF
        file (``.gguf``), a NeMo archive (``.nemo``), else a directory. None is a state
        dict in memory. If the path exists, the plan has a note about it, and writing
        requires ``force``.
    base : path, state dict or None, default=None
        Checkpoint that the members were fine-tuned from; required by rules with
        ``needs_base=True``, None for all others.
    base_may_be_member : bool, default=False
        Whether the base may be one of the members, as in a comparison. In a merge it is
        a mistake.
    moments : sequence of paths or Moments, or None, default=None
        Second moments of the data of each member, in the order of the members; required
        by rules with ``needs_moments``, None for all others.
    rule : str or Rule, default="mean"
        Rule that combines the members: a name in `ensembles.rules.RULES`, or a custom
        `Rule`.
    weights : array-like of shape (n_members,) or None, default=None
        Weight of each member; None gives all members the same weight.
    rule_params : mapping of str to value or None, default=None
        Parameters of the rule, by name; None means the defaults.
    settings : mapping of str to TensorSettings, or None, default=None
        Weights and parameters of single tensors by name, in place of ``weights`` and
        ``rule_params``; None gives all tensors the same.
    dtype, integers, missing, include, exclude, key, shard_size
        As in `average`, with the same defaults.
    only_weights, memory, threads, force
        As in `average`, with the same defaults.
    rank, world_size
        As in `average`, with the same defaults.

    Returns
    -------
    Plan

    Raises
    ------
    FileNotFoundError
        If a member or the base does not exist.
    FileExistsError
        If the output is a broken symbolic link, unless ``force``.
    TypeError
        If a member or an option has the wrong type.
    ValueError
        If the members cannot be averaged or the output cannot be written; the message
        lists all problems, 20 at most.
    """
    if not isinstance(rule_params, Mapping | None):
        raise TypeError(
            f"rule_params must be a dict or None, found {rule_params!r:.80}"
        )
    options = MergeOptions(
        dtype=dtype,
        integers=integers,
        missing=missing,
        include=include,
        exclude=exclude,
        key=key,
        shard_size=shard_size,
        only_weights=only_weights,
        memory=memory,
        threads=threads,
        force=force,
        rank=rank,
        world_size=world_size,
    )
    opened, base_opened, opened_moments, renamings = open_all(
        members, base, moments, key, rule
    )
    checkpoints = opened if base_opened is None else (*opened, base_opened)
    problems: list[str] = []
    # Numbers of NumPy, as of a grid of parameters, are written like those of Python.
    params = plain_params(rule_params or {})
    how = {"has_base": base_opened is not None, "n_moments": len(opened_moments)}
    resolved = checked_rule(rule, len(opened), params, how, problems)
    checked = np.ones(len(opened))
    with collected(problems):
        checked = resolved.check_weights(weights, len(opened))
        if not problems:
            resolved.try_out(checked, params, has_base=base_opened is not None)
    by_tensor = check_settings(
        settings or {}, resolved, opened, base_opened, missing, problems
    )
    is_tried = not problems
    if experts := expert_layout_problem(checkpoints):
        raise ValueError(all_problems([*problems, experts]))
    match = match_layouts(
        opened,
        base_opened,
        missing=missing,
        include=include,
        exclude=exclude,
        dtype=np.dtype(options.dtype) if options.dtype else None,
    )
    if resolved.needs_moments is not None and len(opened_moments) == len(opened):
        match = add_moments(match, opened_moments, resolved.needs_moments)
    if not base_may_be_member:
        problems += base_problems(opened, base_opened)
    problems += [
        reason for member in checkpoints for reason in unsupported_reasons(member)
    ]
    problems += match.problems
    match = match._replace(targets=with_settings(match.targets, by_tensor))
    subsets = subset_problems(match.targets, resolved, checked, params)
    is_tried, problems = is_tried and not subsets, [*problems, *subsets]
    if not match.targets and not problems:
        problems.append(f"no tensor of {opened[0].name} is left to average")
    path = resolved_link(out, force=force)
    format_ = output_format(path)
    targets, aliases = match.targets, match.aliases
    written = FORMATS.get(format_)
    keeps_aliases = written.keeps_aliases if written else not opened[0].is_torch
    if not keeps_aliases and format_ != "memory":
        targets, aliases = shards.repeat_tied(targets, aliases), {}
    if shard_size is not None and format_ != "directory":
        problems.append("a shard size needs a directory as output")
    n_written = sum(target.nbytes for target in targets)
    is_directory = format_ == "directory"
    if is_directory:
        parts = shards.divide(targets, opened[0], shard_size=shard_size)
    else:
        parts = {path.name if path else "": shards.in_order(targets)}
    problems += rank_problems(path, parts if is_directory else None, opened, options)
    kept = kept_contents(parts, aliases, opened[0], path, only_weights=only_weights)
    problems += kept.problems
    n_free = 0
    sources = (*checkpoints, *(entry.checkpoint for entry in opened_moments))
    if path is not None:
        n_needed = kept.count_bytes(n_written)
        n_needed -= 0 if world_size is None else work_bytes(path)
        reasons, n_free = destination_problems(path, sources, n_needed)
        problems += [*reasons, *storage_problems(path, targets, opened[0])]
    n_threads, n_buffers = 1, 0
    buffer_notes = [*unit_notes(targets, resolved, params)]
    with collected(problems):
        n_threads = resolve_n_threads(threads)
        fitting = (resolved, params) if is_tried else (RULES["mean"], {})
        n_buffers, n_threads = fit_to_memory(targets, *fitting, memory, n_threads)
    if n_buffers > memory:
        needs = "keeps statistics of each member"
        if resolved.unit != "element":
            needs = f"reads whole {UNITS[resolved.unit]}"
        buffer_notes.append(
            f"rule {resolved.name!r} {needs}, which needs {n_buffers / 1e6:,.0f} MB of "
            f"memory instead of {memory / 1e6:,.0f}"
        )
    if world_size is not None and resolved.spans_model(params):
        problems.append(
            "scope='model' (--param scope=model) needs the statistics of all "
            "tensors in one process; leave rank and world_size (--part) out"
        )
    if is_tried:
        problems += scope_problems(resolved, params, by_tensor, targets)
    if problems:
        raise ValueError(all_problems(problems))
    ranks = assign(parts, options.world_size or 1)
    assigned = [target for part in ranks[rank] for target in parts[part]]
    return Plan(
        members=opened,
        base=base_opened,
        moments=sources[len(checkpoints) :],
        rule=resolved,
        weights=checked,
        rule_params=params,
        targets=targets,
        aliases=aliases,
        untied=tuple(match.untied),
        out=path,
        format=format_,
        parts=parts,
        templates=kept.templates,
        options=options,
        threads=n_threads,
        read_bytes=count_read(checkpoints, assigned, resolved, params),
        write_bytes=sum(target.nbytes for target in assigned),
        free_bytes=n_free,
        peak_bytes=n_buffers + count_held(format_, parts, n_written),
        notes=(
            *output_notes(path, format_, n_written, options, opened),
            *shards.whole_notes(parts, opened[0], shard_size),
            *rank_notes(parts, options.world_size),
            *buffer_notes,
            *kept.notes,
            *member_notes(checkpoints),
            *renamings,
            *match.notes,
            *notices(opened, base_opened, options, match, resolved, checked),
        ),
    )
