"""The ``ensemble`` command group: its subcommands and error output."""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import warnings
from typing import Any

import click

import ensembles
from ensembles_cli.console import printable
from ensembles_cli.process import prepare_compiling

# A module is imported only to run its command or to print its help.
COMMANDS = {
    "avg": "ensembles_cli.avg",
    "blend": "ensembles_cli.blend",
    "compare": "ensembles_cli.comparison.compare",
    "convert": "ensembles_cli.convert",
    "dedup": "ensembles_cli.embeddings.dedup",
    "demo": "ensembles_cli.demo.command",
    "diff": "ensembles_cli.inspection.diff",
    "distill": "ensembles_cli.embeddings.distill",
    "embed": "ensembles_cli.embeddings.embed",
    "evaluate": "ensembles_cli.embeddings.evaluate",
    "inspect": "ensembles_cli.inspection.inspect",
    "lora": "ensembles_cli.lora.command",
    "merge": "ensembles_cli.merge",
    "plot": "ensembles_cli.plot.command",
    "rules": "ensembles_cli.listing.rules",
    "runs": "ensembles_cli.listing.runs",
    "schedules": "ensembles_cli.listing.schedules",
    "search": "ensembles_cli.embeddings.search",
    "selections": "ensembles_cli.listing.selections",
    "similar": "ensembles_cli.embeddings.similar",
    "soup": "ensembles_cli.soup",
    "transplant": "ensembles_cli.transplant",
    "verify": "ensembles_cli.inspection.verify",
}


# Names of the commands in other tools, for suggestions.
ALIASES = {
    **dict.fromkeys(("average", "mean", "swa", "ema"), "avg"),
    **dict.fromkeys(("stack", "oof", "hillclimb", "predictions"), "blend"),
    **dict.fromkeys(("encode", "vectorize"), "embed"),
    **dict.fromkeys(("cast", "export", "reshard", "consolidate"), "convert"),
    **dict.fromkeys(("similarity", "cosine"), "similar"),
    **dict.fromkeys(("find", "query", "retrieve"), "search"),
    **dict.fromkeys(("deduplicate", "semdedup", "unique"), "dedup"),
    **dict.fromkeys(("comparison", "benchmark", "leaderboard"), "compare"),
    **dict.fromkeys(("select", "selection"), "selections"),
    **dict.fromkeys(("eval", "score"), "evaluate"),
    **dict.fromkeys(("methods", "list"), "rules"),
    **dict.fromkeys(("tokensurgeon", "tokenizer", "retokenize"), "transplant"),
    **dict.fromkeys(("show", "info", "summary", "tree"), "inspect"),
    **dict.fromkeys(("delta", "difference"), "diff"),
    **dict.fromkeys(("draw", "figure", "landscape", "curve"), "plot"),
    **dict.fromkeys(("check", "validate", "checksum"), "verify"),
}


class Commands(click.Group):
    """Command group with lazy imports and one-line error messages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all subcommands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand; None if the name is unknown."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name]).command
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a subcommand; for an unknown name, fail with the closest one."""
        name = args[0]
        if name in COMMANDS or name.startswith("-"):
            return super().resolve_command(ctx, args)
        word = name.lower()
        names = difflib.get_close_matches(word, [*COMMANDS, *ALIASES], n=1)
        nearest = ALIASES.get(names[0], names[0]) if names else None
        hint = f"Commands: {', '.join(COMMANDS)}."
        if nearest:
            hint = f"Did you mean '{nearest}'?"
        ctx.fail(f"No such command '{name}'. {hint}")

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write one line of help per subcommand, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(SUMMARIES.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a subcommand; a library error is printed as one red line."""
        warnings.showwarning = _show_warning
        prepare_compiling()
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of stdout exited; click handles it
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(128 + signal.SIGINT)
        except (ValueError, OSError, ImportError) as error:
            lines = [str(error), *getattr(error, "__notes__", [])]
            message = printable("\n".join(lines))
            click.echo(click.style(f"error: {message}", fg="red"), err=True)
            ctx.exit(1)


SUMMARIES = {
    "avg": "Average checkpoints into one.",
    "blend": "Blend prediction files, with weights learned from a target.",
    "compare": "Compare models with their averages: scores, gains and costs.",
    "convert": "Convert a checkpoint to another format, dtype or shard size.",
    "dedup": "Remove equal and similar texts from a file.",
    "demo": "Train two small models, and average their checkpoints.",
    "diff": "Compare two checkpoints, tensor by tensor.",
    "distill": "Distill sentence encoders into averaged word vectors.",
    "embed": "Compute a vector for each text of a file.",
    "evaluate": "Evaluate a text embedding model on human similarity ratings.",
    "inspect": "List the contents of a checkpoint, from its headers alone.",
    "lora": "Apply low-rank adapters (LoRA) to a base, or extract them.",
    "merge": "Merge models as a recipe in mergekit's format describes.",
    "plot": "Draw runs, soups and loss landscapes.",
    "rules": "List the rules that combine members, with formulas and papers.",
    "runs": "List the checkpoints of training runs, with their metrics.",
    "schedules": "List the schedules: weights from training steps.",
    "search": "Find the texts that are most similar to a query.",
    "selections": "List the ways to choose weights by a score.",
    "similar": "Compute cosine similarities between texts.",
    "soup": "Choose checkpoints by your own score, and average them.",
    "transplant": "Give a model the tokenizer of another one.",
    "verify": "Verify a result against the digests in its metadata.",
}


def _show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    text = printable(str(message))
    click.echo(click.style(f"warning: {text}", fg="yellow"), err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ensembles.__version__, prog_name="ensemble")
def cli() -> None:
    """Combine models by averaging.

    avg and soup average checkpoints: parameters of models with the same architecture.
    merge reads recipes in mergekit's format, and lora applies and extracts low-rank
    adapters. runs lists the checkpoints of training runs; compare scores models and
    their averages; plot draws runs, soups and loss landscapes.

    blend combines prediction files, with weights that are learned from the true values
    and judged by cross-validation.

    embed, similar and evaluate compute text embeddings, by averaging word vectors or by
    running a sentence encoder. search and dedup find similar texts in files.

    \b
    ensemble avg a.safetensors b.safetensors
    ensemble avg run/ --last 5 -o averaged.safetensors
    ensemble merge recipe.yml -o merged/
    ensemble blend oof/*.csv --target y.csv --test-dir test/ -o blend.csv
    ensemble similar -m glove.txt "a cat sat" "the dog lay down"

    Help for one command: ensemble avg --help
    """
