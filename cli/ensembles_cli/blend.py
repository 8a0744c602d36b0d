"""``ensemble blend``: combine prediction files with weights learned from a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ensembles_cli.options import checkpoint, hub
from ensembles_cli.options.types import Param, as_params
from ensembles_cli.process import allow_long_fields, end_cleanly
from ensembles_cli.reports.blend import as_scoring, draw_weights, print_blend
from ensembles_cli.reports.hub import blend_in_hub

EQUAL = ("equal", "uniform", "none")


@click.command("blend")
@click.argument("members", nargs=-1, metavar="FILE...", type=click.Path())
@click.option(
    "-t",
    "--target",
    type=click.Path(),
    help=(
        "File with the true values: identifiers, and a column of labels or numbers.  "
        "[default: nothing is learned or scored, and --weights are equal or numbers]"
    ),
)
@click.option(
    "--target-column",
    metavar="NAME",
    help="Column of the true values.  [default: the only one beside the identifiers]",
)
@click.option(
    "--metric",
    metavar="NAME",
    help=(
        "Metric of the table, and of selections such as greedy: log_loss, brier_score, "
        "roc_auc, accuracy, balanced_accuracy, f1, f1_macro, mcc, rmse, mae, r2, or "
        "another scorer of scikit-learn.  [default: log_loss of probabilities, "
        "mean_squared_error of values, weighted interval score of quantiles]"
    ),
)
@click.option(
    "--rule",
    metavar="NAME",
    help=(
        "Rule that combines the files: log_pool, mean, geometric_mean, product, "
        "median, trimmed_mean, vote, rank_mean, …; for quantiles quantile_mean, "
        "quantile_median, quantile_trimmed_mean or linear_pool.  [default: log_pool "
        "for probabilities, mean for values, quantile_mean for quantiles]"
    ),
)
@checkpoint.rule_param
@click.option(
    "--weights",
    metavar="NAME|W1,W2,…",
    help=(
        "Selection that learns the weights: convex, greedy, best, top-k, and with "
        "log_pool free; equal for equal weights; or one number for each file.  "
        "[default: convex; equal without --target]"
    ),
)
@click.option(
    "--weights-param",
    "weights_params",
    type=Param(),
    multiple=True,
    help="Parameter of the selection, such as n_rounds=20; may be repeated.",
)
@click.option(
    "--calibrate",
    type=click.Choice(["temperature", "matrix", "isotonic", "sigmoid"]),
    help="Calibrate the probabilities of each file and of the blend.",
)
@click.option(
    "--no-thresholds",
    is_flag=True,
    help=(
        "Judge the most probable labels. By default, thresholds of the classes are "
        "learned for accuracy, balanced_accuracy, f1, f1_macro and mcc."
    ),
)
@click.option(
    "--id",
    "ids",
    multiple=True,
    metavar="COLUMN",
    help=(
        "Column that identifies rows; may be repeated.  [default: columns of text or "
        "dates, and names such as id or row_id]"
    ),
)
@click.option(
    "--columns",
    multiple=True,
    metavar="COLUMN",
    help="Column with predictions, to leave out the others; may be repeated.",
)
@click.option(
    "--output-type",
    metavar="NAME",
    help="Output type to read from long files with several, such as quantile.",
)
@click.option(
    "--groups",
    metavar="COLUMN",
    help=(
        "Column of the target with groups, such as patients: rows of a group judge "
        "only weights that were learned without this group."
    ),
)
@click.option(
    "--time",
    metavar="COLUMN",
    help=(
        "Column of the target with times, as numbers or dates such as 2024-11-23: each "
        "fold judges weights that were learned from earlier rows only."
    ),
)
@click.option(
    "--cv",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    help="Number of folds that judge the weights.",
)
@click.option(
    "--missing",
    type=click.Choice(["error", "drop", "member"]),
    default="error",
    show_default=True,
    help=(
        "How to handle rows that some files lack: fail, leave the rows out, or blend "
        "the files that have them."
    ),
)
@click.option(
    "--missing-class",
    type=click.Choice(["error", "zero"]),
    default="error",
    show_default=True,
    help="How to handle a class that a file lacks: fail, or give it probability 0.",
)
@click.option(
    "--kind",
    type=click.Choice(["probabilities", "values", "quantiles"]),
    help=(
        "Kind of the predictions. Choose values for columns of numbers that are not "
        "probabilities of exclusive classes.  [default: from the files and the target]"
    ),
)
@click.option(
    "--normalize",
    is_flag=True,
    help="Divide probabilities by their sum in each row, instead of failing.",
)
@click.option(
    "--crossing",
    type=click.Choice(["raise", "sort"]),
    default="raise",
    show_default=True,
    help="How to handle quantiles that decrease with the level: fail, or sort them.",
)
@click.option(
    "--test-dir",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help=(
        "Folder with a test file for each FILE, of the same name, or with test instead "
        "of oof in its name: the blend of these is written to OUT."
    ),
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help=(
        "Output: NAME.csv, .tsv, .parquet, .npy or .npz with the blended predictions.  "
        "[default: the table of scores is printed, and nothing is written]"
    ),
)
@click.option(
    "--labels",
    is_flag=True,
    help="Write the predicted labels to OUT, with learned thresholds if there are any.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed of random selections, such as bagged greedy ones.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="IMAGE",
    help="Draw the weights and scores: a path with the suffix .png, .svg or .pdf.",
)
@hub.options
@checkpoint.force
@checkpoint.as_json
def command(
    members: tuple[str, ...],
    target: str | None,
    metric: str | None,
    weights: str | None,
    rule_params: tuple[tuple[str, Any], ...],
    weights_params: tuple[tuple[str, Any], ...],
    no_thresholds: bool,
    ids: tuple[str, ...],
    columns: tuple[str, ...],
    test_dir: Path | None,
    out: Path | None,
    labels: bool,
    seed: int,
    plot: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Blend prediction files, with weights learned from a target.

    Each FILE has the predictions of a model for the same rows: class probabilities,
    values or quantiles, as CSV, TSV, Parquet, NPY or NPZ. It is wide (a column for
    each class) or long (a row for each, with the columns output_type, output_type_id
    and value). Rows are matched by identifiers, whatever their order, and classes by
    name. The predictions must be out-of-fold or held-out: predictions for a model's own
    training rows would favor models that overfit.

    The table has the score of each file, of the best one, of equal weights and of the
    blend. Weights are judged by cross-validation, on rows that they were not learned
    from.

    \b
    ensemble blend a.csv b.parquet c.npy --target y.csv
    ensemble blend oof/*.csv -t y.csv --test-dir test/ -o submission.csv
    ensemble blend *.csv -t y.csv --metric roc_auc --rule mean --weights greedy
    ensemble blend *.csv -t y.csv --groups patient -o blend.parquet
    ensemble blend *.csv -t y.csv --time date --cv 8 --json
    ensemble blend a.csv b.csv --rule mean --weights .7,.3 -o c.csv
    ensemble blend --hub FluSight-forecast-hub --model-id TEAM-blend

    Weights are learned once more from all rows, and then applied to the test files or,
    without --test-dir, to the same files: those predictions are no longer out-of-fold.

    With --hub, the quantile forecasts of a round are blended: each model counts by its
    scores in earlier rounds (--weights skill, or equal), on outcomes as they were known
    before the round. --rule is quantile_mean, quantile_median, linear_pool, or several
    with commas. The submission is checked against the hub's tasks.json.
    """
    from ensembles.atomic_io import check_absent
    from ensembles.predictions.files import blend
    from ensembles.predictions.files.formats.paths import format_of
    from ensembles.reports.displays.figures import check_image
    from ensembles_cli.options.file_pairs import matching_files

    allow_long_fields()
    end_cleanly()
    in_hub = hub.take_options(options)
    if in_hub is not None:
        blend_in_hub(
            in_hub,
            members,
            target=target,
            rule=options["rule"],
            rule_params=as_params(rule_params),
            weights=weights or "convex",
            weights_params=as_params(weights_params),
            crossing=options["crossing"],
            out=out,
            force=force,
            as_json=as_json,
        )
        return
    if (test_dir is not None or labels or target is None) and out is None:
        raise click.UsageError("--test-dir, --labels, or no --target, requires -o")
    if out is not None:  # before weights are learned
        check_absent(out, force=force, folder=False)
        format_of(out)
    if plot is not None:
        check_image(plot, force=force)
    tests = None
    if test_dir is not None:
        tests = matching_files(list(map(Path, members)), test_dir)
    scoring = as_scoring(metric)
    blended = blend(
        members,
        target,
        scoring=scoring.name,
        weights=as_weights(weights or ("equal" if target is None else "convex")),
        rule_params=as_params(rule_params),
        weights_params=as_params(weights_params),
        thresholds=None if no_thresholds else "auto",
        ids=ids or None,
        columns=columns or None,
        random_state=seed,
        **options,
    )
    notes = blended.notes
    if out is not None:
        notes += blended.apply(tests, out, labels=labels, force=force)
    if plot is not None:
        draw_weights(blended, scoring, plot, force=force)
    print_blend(blended, scoring, out, tests, notes, as_json)


def as_weights(text: str) -> Any:
    """Weights as numbers, None for equal ones, or the name of a selection."""
    if text in EQUAL:
        return None
    try:
        return [float(number) for number in text.strip(",").split(",")]
    except ValueError:
        return text.replace("-", "_")
