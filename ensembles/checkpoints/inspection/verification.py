"""Verification of a result: digests of its tensors and members, and its files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ensembles._typing import Array
from ensembles.checkpoints.compatibility.grouping import listed
from ensembles.checkpoints.compatibility.member_moments import MomentsSource
from ensembles.checkpoints.compatibility.settings import TensorSettings
from ensembles.checkpoints.directories.adapter_files import (
    has_adapter,
    open_with_adapters,
)
from ensembles.checkpoints.directories.open import Member, open_checkpoint
from ensembles.checkpoints.formats.checkpoint import Checkpoint, Keys, Tensor
from ensembles.checkpoints.formats.detection import read_metadata
from ensembles.checkpoints.inspection.adapter_members import verify_adapters
from ensembles.checkpoints.inspection.findings import Verification
from ensembles.checkpoints.inspection.result_files import (
    verify_card,
    verify_copies,
    verify_recipes,
)
from ensembles.checkpoints.merging.checksums import verify_checksums
from ensembles.checkpoints.merging.digests import Digested, digest, read_blocks
from ensembles.checkpoints.merging.provenance import OPTIONS, TENSORS
from ensembles.checkpoints.merging.relations import recipe_of
from ensembles.checkpoints.merging.streaming import StreamResult, stream_plan
from ensembles.checkpoints.planning.plan import Plan, plan
from ensembles.checkpoints.planning.shards import prefix_of, repeat_tied
from ensembles.parallel import resolve_n_threads
from ensembles.rules.rule import Rule

SCHEME = "xxh3-128:"
N_HEX = 32  # digits of a digest
NOTHING = (
    "has nothing to verify: neither the provenance of an average in its metadata, nor "
    "checksums, which PyTorch files and NumPy archives have"
)
OUTDATED = (
    "the tensors: the version {} that wrote them recorded no digest of the result"
)
PART = "the digest of the whole result: the file has only a part of its tensors"

Progress = Callable[[int], None]


def _silent(n_bytes: int) -> None:
    """Ignore progress."""


def verify(
    out: str | os.PathLike[str],
    members: Sequence[Member] = (),
    *,
    base: Member | None = None,
    moments: Sequence[MomentsSource] = (),
    key: Keys = None,
    threads: int | None = None,
    progress: Progress = _silent,
) -> Verification:
    """Verify a result against the digests in its metadata.

    Every tensor is read once. The checksums of a PyTorch file without metadata are
    verified instead. Digests detect mix-ups and damage, not tampering.

    Parameters
    ----------
    out : path
        File or directory written by `average`. Of a directory, the index of the
        shards and the digests in the model card are verified too.
    members : sequence of paths or state dicts, default=()
        Members that the result was averaged from, all and in their order; their
        tensors, and the files that were copied from the first one, are compared with
        the result. Empty verifies the result alone.
    base : path, state dict or None, default=None
        Base that the result was averaged with; required with ``members`` if the rule
        had a base.
    moments : sequence of paths or Moments, default=()
        Moments that the result was averaged with, in the order of ``members``, which
        must be given too. Empty leaves them unverified.
    key : str or None, default=None
        Key of the state dict in PyTorch members, as it was in the average.
    threads : int or None, default=None
        Number of threads; None means one per processor.
    progress : callable, optional
        Called with the number of bytes read since the last call, from any thread.

    Returns
    -------
    Verification

    Raises
    ------
    FileNotFoundError
        If the result, a member or the base does not exist.
    ValueError
        If a file is truncated or malformed, an index contradicts its shards, the
        result has neither provenance nor checksums, or the number of members differs
        from the recorded one.
    """
    result = _opened(out, key)
    found = Verification(Path(out), _recipe(result))
    n_threads = resolve_n_threads(threads)
    if found.recipe is None:
        if members:
            raise ValueError(
                f"{out} has no provenance, so that members cannot be compared with it"
            )
        _verify_records(found, [result], n_threads, progress)
        if not found.verified and not found.problems:
            raise ValueError(f"{out} {NOTHING}")
        return found
    tensors = _verify_tensors(found, result, n_threads, progress)
    if result.is_directory:
        verify_recipes(found, result)
        verify_card(found)
    if members and found.recipe.get("adapters"):
        verify_adapters(found, members, n_threads, progress)
    elif members or moments or base is not None:
        planned = _planned(found, result, members, base, moments, key)
        _verify_members(found, planned, moments, tensors, n_threads, progress)
        if result.is_directory and planned.members[0].is_directory:
            verify_copies(found, result, planned.members[0])
    return found


def _opened(out: str | os.PathLike[str], key: Keys) -> Checkpoint:
    """Layout of the result, with the key that a copy of the first member needs."""
    path = Path(out)
    recipe = recipe_of(Checkpoint("", "", path, {}, metadata=read_metadata(path))) or {}
    recorded = recipe.get("key")
    if isinstance(recorded, list) and recorded and {*map(type, recorded)} == {str}:
        return open_checkpoint(out, 0, key=tuple(recorded))
    try:
        return open_with_adapters(out, 0)
    except ValueError:
        if not key:
            raise
        return open_checkpoint(out, 0, key=key)


def _recipe(result: Checkpoint) -> dict[str, Any] | None:
    """Provenance of a result; None if it is absent or malformed."""
    recipe = recipe_of(result)
    options = recipe and recipe.get("options")
    if (
        recipe is None
        or not isinstance(options, dict)
        or not {*OPTIONS} <= options.keys()
    ):
        return None
    patterns = [options["include"], options["exclude"]]
    texts = [options["integers"], options["missing"], options["dtype"] or ""]
    if not isinstance(recipe.get("moments", []), list):
        return None
    texts += [*recipe["members"], recipe.get("base", ""), *recipe.get("moments", [])]
    if not all(isinstance(names, list) for names in patterns):
        return None
    texts += [*patterns[0], *patterns[1]]
    return recipe if all(isinstance(text, str) for text in texts) else None


def _verify_records(
    found: Verification,
    checkpoints: Sequence[Checkpoint],
    n_threads: int,
    progress: Progress,
) -> None:
    """Verify the checksums in PyTorch files."""
    for checkpoint in checkpoints:
        n_records = len(checkpoint.records)
        try:
            verify_checksums([checkpoint], {}, n_threads, progress)
        except ValueError as error:
            found.problems.append(str(error))
        else:
            if n_records:
                found.verified.append(f"{checkpoint.name}: checksums of its entries")


def _counted(n_tensors: int) -> str:
    return f"{n_tensors} tensor{'s' * (n_tensors != 1)}"


def _verify_tensors(
    found: Verification, result: Checkpoint, n_threads: int, progress: Progress
) -> dict[str, Digested]:
    """Compare the tensors of each weight file, and of all, with their digests."""
    blocks = read_blocks(result.layout.values(), n_threads, progress)
    tensors: dict[str, Digested] = {
        name: (tensor.dtype, tensor.shape, blocks[tensor])
        for name, tensor in result.layout.items()
    }
    for part in sorted(result.parts):
        metadata, prefix = result.metadata, ""
        if result.is_directory:
            metadata = read_metadata(found.path / part)
            prefix = prefix_of(part, result)
        if TENSORS in metadata:
            names = {name.removeprefix(prefix): name for name in result.parts[part]}
            _compare_part(found, part, names, tensors, metadata[TENSORS])
    _compare_whole(found, result, digest(tensors))
    if found.problems and result.records:
        _verify_records(found, [result], n_threads, progress)
    return tensors


def _compare_part(
    found: Verification,
    part: str,
    names: Mapping[str, str],
    tensors: Mapping[str, Digested],
    recorded: str,
) -> None:
    """Compare the tensors of one weight file with the digests in its metadata."""
    if len(recorded) != N_HEX * len(names):
        found.problems.append(
            f"{part} has {_counted(len(names))}, but digests of "
            f"{len(recorded) // N_HEX} in its metadata"
        )
        return
    differing = [
        names[name]
        for place, name in enumerate(sorted(names))
        if digest({name: tensors[names[name]]})
        != recorded[N_HEX * place : N_HEX * (place + 1)]
    ]
    found.differing_tensors.extend(differing)
    if differing:
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        found.problems.append(
            f"{part}: tensor {differing[0]!r}{more} of {len(names)} differs from its "
            "recorded digest: the file was damaged or modified after it was written"
        )
    else:
        found.verified.append(f"{part}: {_counted(len(names))}")


def _compare_whole(found: Verification, result: Checkpoint, whole: str) -> None:
    """Compare all tensors with the digest of the result."""
    recipe = found.recipe or {}
    recorded = recipe.get("result")
    if recorded is None:
        found.unverified.append(OUTDATED.format(recipe.get("version")))
    elif recorded == SCHEME + whole:
        n_tensors = _counted(len(result.layout))
        found.verified.append(f"the digest of the result: {n_tensors}")
    elif found.differing_tensors:
        return  # named already
    elif found.problems or not found.verified:
        found.problems.append(f"{found.path} differs from the digest of the result")
    elif result.is_directory:
        found.problems.append(
            f"{found.path} differs from the digest of the result, although its weight "
            f"files ({listed(sorted(result.parts))}) match the digests that they have: "
            "a weight file was added or removed, or is of another result"
        )
    else:
        found.unverified.append(PART)


def _is_adapter(member: Member) -> bool:
    return isinstance(member, str | os.PathLike) and has_adapter(Path(member))


def _stand_in(stack: Array, weights: Array, *, base: Array) -> Array:
    """Stand for a rule with a base in a plan that is not carried out."""
    return base


def _planned(
    found: Verification,
    result: Checkpoint,
    members: Sequence[Member],
    base: Member | None,
    moments: Sequence[MomentsSource],
    key: Keys,
) -> Plan:
    """Plan of the average, which matches the names of members as it was done then."""
    recipe = found.recipe or {}
    n_members = len(recipe["members"])
    if len(members) != n_members:
        raise ValueError(
            f"{found.path} was averaged from {n_members} members, found "
            f"{len(members)}; pass all of them, in their order"
        )
    # Adapters among the members need a base that the rule did not use.
    is_of_adapters = "base" not in recipe and any(map(_is_adapter, members))
    if (base is None) != ("base" not in recipe) and not is_of_adapters:
        fix = "leave base=PATH out" if base is not None else "pass base=PATH too"
        has = "no base" if base is not None else "a base"
        raise ValueError(f"{found.path} was averaged with {has}; {fix}")
    options = {name: recipe["options"][name] for name in OPTIONS}
    if moments and "moments" not in recipe:
        raise ValueError(
            f"{found.path} was averaged with no moments; leave moments=PATHS "
            "(--moments PATH) out"
        )
    if moments:
        options |= {"rule": recipe["rule"], "moments": moments}
    elif base is not None and not is_of_adapters:
        options["rule"] = Rule(_stand_in, needs_base=True)
    if "moments" in recipe and not moments:
        found.unverified.append(
            "the moments of the members: pass moments=PATHS (--moments PATH for each "
            "member)"
        )
    planned = plan(members, base=base, base_may_be_member=True, key=key, **options)
    # Some formats store tied tensors under each name, and so do the digests.
    tied = {alias: n for alias, n in planned.aliases.items() if alias in result.layout}
    return replace(planned, targets=repeat_tied(planned.targets, tied))


def _verify_members(
    found: Verification,
    planned: Plan,
    moments: Sequence[MomentsSource],
    result: Mapping[str, Digested],
    n_threads: int,
    progress: Progress,
) -> None:
    """Compare the tensors of members, base and moments with the recorded digests."""
    recipe = found.recipe or {}
    tensors: list[Tensor] = [t for target in planned.targets for t in target.sources]
    blocks = read_blocks(tensors, n_threads, progress)
    digests = StreamResult(blocks).checkpoint_digests(planned)
    recorded = [text.removeprefix(SCHEME) for text in recipe["members"]]
    names = [f"member {place}" for place in range(1, len(recorded) + 1)]
    names += ["base"] * (planned.base is not None)
    names += [f"moments {place}" for place in range(1, len(planned.moments) + 1)]
    others = [recipe["base"]] if planned.base is not None else []
    others += recipe["moments"] if planned.moments else []
    expected = [*recorded, *(text.removeprefix(SCHEME) for text in others)]
    differing = []
    for checkpoint, name, own, right in zip(
        planned.sources, names, digests, expected, strict=True
    ):
        shown = (None if checkpoint.made_from else checkpoint.path) or checkpoint.name
        problem = f"{shown} differs from the recorded {name}"
        if own == right:
            found.verified.append(f"{name}: the tensors of {shown}")
        elif own in recorded:
            place = recorded.index(own) + 1
            found.problems.append(
                f"{problem}; it is member {place}: pass members in order"
            )
        else:
            differing.append(checkpoint)
            found.problems.append(problem)
    if differing:
        found.problems[-1] += _changed_by(found, planned, moments, result, progress)
    _verify_records(found, differing, n_threads, progress)


def _settings(recipe: Mapping[str, Any]) -> dict[str, TensorSettings]:
    """Recorded weights and parameters of single tensors."""
    return {
        name: TensorSettings(entry["weights"], entry["params"])
        for entry in recipe.get("settings", ())
        for name in entry["tensors"]
    }


class _Nowhere:
    """Sink that discards what it receives."""

    def write(self, buffer: memoryview, offset: int) -> None:
        """Do nothing."""


def _changed_by(
    found: Verification,
    planned: Plan,
    moments: Sequence[MomentsSource],
    result: Mapping[str, Digested],
    progress: Progress,
) -> str:
    """Tensors that members change, for a message, by averaging them again.

    A member has a single digest, so only their effect on the result can be named.
    """
    recipe = found.recipe or {}
    try:
        again = plan(
            planned.members,
            base=planned.base,
            base_may_be_member=True,
            moments=moments,
            rule=recipe["rule"],
            weights=recipe["weights"],
            rule_params=recipe["params"],
            settings=_settings(recipe),
            **{name: recipe["options"][name] for name in OPTIONS},
        )
        settings = {target.name: target.settings for target in again.targets}
        targets = [
            target._replace(settings=settings.get(target.tied_to or target.name))
            for target in planned.targets
        ]
        again = replace(again, targets=targets)
        sinks = dict.fromkeys((target.name for target in again.targets), _Nowhere())
        written = stream_plan(again, sinks, progress).written
    except (KeyError, TypeError, ValueError) as error:
        return f"; the tensor that differs is not known: {error}"
    names = [
        name
        for name in sorted(written)
        if name not in result
        or digest({name: written[name]}) != digest({name: result[name]})
    ]
    if not names:
        return "; averaged again, the members still give the result"
    return f"; averaged again, the members give other values of {listed(names)}"
