"""``ensemble avg``: average checkpoints into one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ensembles_cli.carry_out import carry_out
from ensembles_cli.options import adapter, checkpoint, run
from ensembles_cli.options.part import Part, part_of_launcher, part_option
from ensembles_cli.options.schedule import ScheduleChoice, schedule_option, scheduled
from ensembles_cli.options.types import (
    Weight,
    Weights,
    as_params,
    complete_rule,
    split_weights,
)
from ensembles_cli.process import end_cleanly, raise_file_limit
from ensembles_cli.reports.adapters import merge_adapters
from ensembles_cli.reports.average import PlannedAverage, counted

if TYPE_CHECKING:
    from ensembles.checkpoints import ChosenCheckpoints, MergeReport, TensorSettings


@click.command("avg")
@click.argument("members", nargs=-1, required=True, metavar="CKPT[:WEIGHT]...")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help=(
        "Output path: a file with the suffix of a format, such as .safetensors, .pt, "
        ".npz or .gguf, else a directory.  [default: averaged.safetensors, or "
        "averaged/ for directories]"
    ),
)
@click.option(
    "--rule",
    default="mean",
    show_default=True,
    metavar="NAME",
    shell_complete=complete_rule,
    help=(
        "Rule that combines the members: arcee_fusion, geometric_mean, "
        "geometric_median, karcher_mean, linear_combination, maximum, mean, median, "
        "minimum, multislerp, nearswap, nuslerp, power_mean, slerp or trimmed_mean; "
        "with --base breadcrumbs_linear, breadcrumbs_ties, consensus, dare_linear, "
        "dare_ties, della_linear, della_ties, iso_c, iso_cts, magnitude_prune, "
        "model_stock, multislerp_task_vectors, nuslerp_task_vectors, ram, sce, "
        "task_arithmetic, ties, tsv or wudi; with moments of the members' data fisher "
        "or regmean. ensemble rules shows formulas and parameters."
    ),
)
@checkpoint.rule_param
@click.option(
    "--base",
    type=click.Path(),
    metavar="CKPT",
    help=(
        "Checkpoint that the members were fine-tuned from, for rules that need one; "
        "ensemble rules marks them."
    ),
)
@click.option(
    "--moments",
    type=click.Path(),
    multiple=True,
    metavar="FILE",
    help=(
        "Second moments of the data of a member, from collect_fisher or collect_gram, "
        "for the rules fisher and regmean; repeat it for each member, in their order."
    ),
)
@click.option(
    "--weights",
    type=Weights(),
    help=(
        "Weight of each member, such as .7,.3. Weights with two dots change with the "
        "depth of the layer: 0..1,1..0 is the second member at the first layer, and "
        "the first member at the last. Embeddings have the weights of the first layer, "
        "final norms and output layers those of the last.  [default: equal]"
    ),
)
@click.option(
    "--save-recipe",
    type=click.Path(path_type=Path),
    metavar="FILE.yml",
    help=(
        "Write the average as a recipe in mergekit's format too, which ensemble merge "
        "reads."
    ),
)
@schedule_option
@run.choosing()
@run.use_averaged_model
@adapter.ranks
@checkpoint.dtype
@checkpoint.integers
@checkpoint.missing
@checkpoint.include
@checkpoint.exclude
@checkpoint.key
@checkpoint.only_weights
@checkpoint.shard_size
@checkpoint.memory
@checkpoint.threads
@checkpoint.force
@part_option
@checkpoint.plan_only
@checkpoint.as_json
@checkpoint.sha256
def command(
    members: tuple[str, ...],
    out: Path | None,
    weights: list[Weight] | None,
    save_recipe: Path | None,
    schedule: ScheduleChoice | None,
    rule_params: tuple[tuple[str, Any], ...],
    use_averaged_model: bool,
    largest_rank: int | None,
    energy: float | None,
    part: Part | None,
    plan_only: bool,
    as_json: bool,
    sha256: bool,
    **options: Any,
) -> None:
    """Average checkpoints into one.

    Members are .safetensors files, PyTorch files (.pt .pth .bin .ckpt), NumPy archives
    (.npz), GGUF files that are not quantized, NeMo archives (.nemo), distributed
    checkpoints (DCP), or Hugging Face, sentence-transformers and diffusers directories.
    Low-rank adapters (LoRA) are merged by their updates, see --rank and --energy.
    Existing files are replaced only with --force. Output is written atomically: a
    killed run leaves no incomplete file.

    \b
    ensemble avg a.safetensors b.safetensors
    ensemble avg a.safetensors:.7 b.safetensors:.3 -o soup.safetensors
    ensemble avg 'runs/*/model.safetensors' --rule median
    ensemble avg math/:0..1 code/:1..0 -o by-depth/
    ensemble avg math/ code/ --base base/ --rule ties --param density=.2
    ensemble avg run/ --last 5 -o averaged.pt
    ensemble avg run/ --best 5 --metric val_loss --steps 1000:9000 -o averaged.pt
    ensemble avg run/ --last 9 --schedule wsm:minus-sqrt -o averaged.pt
    ensemble avg run/ --epochs 21:30 --use-averaged-model -o averaged.pt
    ensemble avg lora-a/ lora-b/ --rank 32 -o merged-lora
    ensemble avg model-a/ model-b/ --plan
    """
    from ensembles import checkpoints
    from ensembles.checkpoints.directories.adapter_files import has_adapter

    raise_file_limit()
    end_cleanly()
    choice = run.choice_in(options)
    paths, member_weights = split_weights(
        members, weights, is_sorted=any(value is not None for value in choice.values())
    )
    if schedule is not None and (member_weights is not None or use_averaged_model):
        raise click.UsageError(
            "--schedule sets the weights: leave out --weights, weights after : and "
            "--use-averaged-model"
        )
    by_step = schedule is not None
    chosen = checkpoints.choose_checkpoints(paths, by_step=by_step, **choice)
    if schedule is not None:
        chosen, scheduled_weights = scheduled(chosen, schedule)
        member_weights = None if scheduled_weights is None else [*scheduled_weights]
    if use_averaged_model:
        chosen, member_weights = window_of(chosen, member_weights, options)
    if options["base"] is None and has_adapter(Path(chosen.paths[0])):
        options |= {"rank": largest_rank, "energy": energy, "part": part}
        options |= {"rule_params": as_params(rule_params), "sha256": sha256}
        destination = out or default_out(chosen.paths)
        printed = {"plan_only": plan_only, "as_json": as_json}
        plain = weights_of_adapters(member_weights, save_recipe)
        merge_adapters(chosen, destination, plain, options, **printed)
        return
    if largest_rank is not None or energy is not None:
        raise click.UsageError("--rank and --energy are for low-rank adapters (LoRA)")
    options["key"] = options["key"] or chosen.key
    by_depth = settings_by_depth(chosen.paths, member_weights, rule_params, options)
    if by_depth:
        options["settings"], member_weights = by_depth, None
    part, part_notes = (part, []) if part else part_of_launcher(os.environ)
    plan = checkpoints.plan(
        chosen.paths,
        out or default_out(chosen.paths),
        weights=member_weights,
        rule_params=as_params(rule_params),
        **part._asdict(),
        **options,
    )
    planned = PlannedAverage(plan, chosen, part_notes)

    def write(**progress: Any) -> MergeReport:
        if save_recipe is not None:
            checkpoints.save_recipe(plan, save_recipe, force=options["force"])
        return checkpoints.write(plan, sha256=sha256, **progress)

    carry_out(planned, write, verb="averaging", plan_only=plan_only, as_json=as_json)


def weights_of_adapters(
    weights: Sequence[Weight] | None, save_recipe: Path | None
) -> list[float] | None:
    """Weights of adapters, after a check of options that adapters do not have."""
    plain = [weight for weight in weights or () if not isinstance(weight, tuple)]
    if len(plain) < len(weights or ()) or save_recipe is not None:
        raise click.UsageError(
            "weights by depth (0..1) and --save-recipe are not for low-rank adapters "
            "(LoRA)"
        )
    return None if weights is None else plain


def settings_by_depth(
    paths: list[str],
    weights: Sequence[Weight] | None,
    rule_params: tuple[tuple[str, Any], ...],
    options: dict[str, Any],
) -> dict[str, TensorSettings]:
    """Weights of each tensor, by its depth; empty if no weight changes with it."""
    from ensembles.checkpoints import weights_by_depth

    if not any(isinstance(weight, tuple) for weight in weights or ()):
        return {}
    if len(weights or ()) != len(paths):
        raise click.UsageError(
            f"there must be one weight for each member, found {len(weights or ())} "
            f"for {len(paths)} members"
        )
    return weights_by_depth(
        paths[0],
        weights or (),
        rule_params=as_params(rule_params),
        key=options["key"],
    )


def window_of(
    chosen: ChosenCheckpoints, weights: Sequence[Weight] | None, options: dict[str, Any]
) -> tuple[ChosenCheckpoints, list[Weight]]:
    """Ends of the window of the chosen checkpoints, with their weights.

    Sets the options of the average that go with it.
    """
    from ensembles.checkpoints import window_mean

    if weights is not None or options["key"] or options["rule"] != "mean":
        raise click.UsageError(
            "--use-averaged-model has weights, a rule and a key of its own: leave out "
            "weights, --rule and --key"
        )
    if len(chosen.paths) < 2:
        raise click.UsageError(
            "--use-averaged-model needs checkpoints at the start and the end of a "
            f"window, found {' '.join(chosen.paths)}; choose them with --epochs, "
            "--steps or --last"
        )
    first, *between, last = chosen.checkpoints
    window = window_mean(first.path, last.path)
    options["key"] = (window.key,)
    if options["only_weights"] is None:
        options["only_weights"] = True
    notes = [*chosen.notes, window.note]
    if between:
        notes.append(f"the {counted(len(between), 'checkpoint')} between are not read")
    ends = chosen._replace(checkpoints=[last, first], notes=notes)
    return ends, [*map(float, window.weights)]


def default_out(members: list[str]) -> Path:
    """Default output path: a directory if the first member is one, else a file."""
    return Path("averaged" if Path(members[0]).is_dir() else "averaged.safetensors")
