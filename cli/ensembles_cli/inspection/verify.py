"""``ensemble verify``: verify a result against its digests."""

from __future__ import annotations

import click

from ensembles_cli.console import bar
from ensembles_cli.options import checkpoint
from ensembles_cli.process import end_cleanly, raise_file_limit
from ensembles_cli.reports.verification import print_verification


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
@checkpoint.key
@checkpoint.threads
@checkpoint.as_json
def command(
    out: str,
    members: tuple[str, ...],
    base: str | None,
    moments: tuple[str, ...],
    key: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Verify a result of ensemble avg or soup against the digests in its metadata.

    Every tensor is read once. With the members, all and in their order, their tensors
    are compared with the recorded digests too. A file without digests is verified by
    the checksums of its entries. Exits with 1 if anything differs.

    \b
    ensemble verify averaged.safetensors
    ensemble verify averaged/ model-a/ model-b/
    """
    from ensembles.checkpoints import verify
    from ensembles.checkpoints.directories.open import open_checkpoint

    raise_file_limit()
    end_cleanly()
    opened = [open_checkpoint(m, place, key=key) for place, m in enumerate(members)]
    n_bytes = sum(t.nbytes for member in opened for t in member.layout.values())
    n_bytes += sum(t.nbytes for t in open_checkpoint(out, 0).layout.values())
    with bar("verifying", n_bytes) as progress:
        found = verify(
            out,
            opened,
            base=base,
            moments=moments,
            key=key,
            threads=threads,
            progress=progress,
        )
    print_verification(found, as_json)
