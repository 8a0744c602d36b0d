"""The command by way of ``python -m ensembles_cli``."""

from ensembles_cli.main import cli

if __name__ == "__main__":
    cli(prog_name="ensemble")
