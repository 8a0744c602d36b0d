"""``ensemble verify``: verify a result against its digests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ensembles_cli.console import bar
from ensembles_cli.options import checkpoint
from ensembles_cli.process import end_cleanly, raise_file_limit
from ensembles_cli.reports.verification import print_verification

if TYPE_CHECKING:
    from ensembles.checkpoints.directories.open import Member
    from ensembles.checkpoints.planning.plan import Plan


@click.command("verify")
@click.argument("out", metavar="OUT")
@click.argument("members", nargs=-1, metavar="[CKPT]...")
@click.option(
    "--base", metavar="CKPT", help="Base that the result was averaged with, if any."
)
@click.option(
    "--moments",
    type=click.Path(),
    multiple=True,
    metavar="FILE",
    help=(
        "Moments of a member that the result was averaged with, if any; repeat it for "
        "each member, in their order."
    ),
)
@click.option(
    "--recipe",
    type=click.Path(),
    metavar="RECIPE.yml",
    help=(
        "Recipe of ensemble merge, in place of the members and the base. Its method, "
        "weights and parameters are compared too."
    ),
)
@checkpoint.key
@checkpoint.threads
@checkpoint.as_json
def command(
    out: str,
    members: tuple[str, ...],
    base: str | None,
    moments: tuple[str, ...],
    recipe: str | None,
    key: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Verify a result against the digests in its metadata.

    Every tensor is read once. With the members, all and in their order, their tensors
    are compared with the recorded digests too. A file without digests is verified by
    the checksums of its entries. Exits with 1 if anything differs.

    \b
    ensemble verify averaged.safetensors
    ensemble verify averaged/ model-a/ model-b/
    ensemble verify merged/ --recipe recipe.yml
    """
    from ensembles.checkpoints import verify
    from ensembles.checkpoints.directories.adapter_files import open_with_adapters
    from ensembles.checkpoints.inspection.result_files import verify_settings

    raise_file_limit()
    end_cleanly()
    opened = [open_with_adapters(m, n, key=key) for n, m in enumerate(members)]
    own_base: Member | None = base
    planned: Plan | None = None
    if recipe is not None:
        if members or base is not None:
            raise click.UsageError(
                "--recipe names the members and the base: pass it alone"
            )
        planned = plan_of(recipe)
        opened, own_base = [*planned.members], planned.base
    n_bytes = sum(t.nbytes for member in opened for t in member.layout.values())
    n_bytes += sum(t.nbytes for t in open_with_adapters(out, 0).layout.values())
    with bar("verifying", n_bytes) as progress:
        found = verify(
            out,
            # The library adds adapters to the base: they are passed as paths.
            members if recipe is None else opened,
            base=own_base,
            moments=moments,
            key=key,
            threads=threads,
            progress=progress,
        )
    if planned is not None:
        verify_settings(found, planned)
    print_verification(found, as_json)


def plan_of(recipe: str) -> Plan:
    """Plan of a recipe with a single merge."""
    from ensembles.checkpoints import plan_recipe, read_recipes

    recipes = read_recipes(recipe)
    if len(recipes) > 1:
        raise ValueError(
            f"{recipe} has {len(recipes)} merges, whose members are not kept; pass the "
            "members of the last one"
        )
    return plan_recipe(recipes[0])
