"""What commands say to a person beside their output."""

import click


def warn(text: str) -> None:
    """A line for a person, beside what goes to standard output."""
    click.echo(f"gapwatch: {text}", err=True)
