"""How the command line prints: JSON, aligned columns, indented trees. Plain text, so that it can be piped."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer


def short(digest: str, verbose: bool) -> str:
    """A digest as people compare them, or whole."""
    return digest if verbose else digest[:12]


def print_json(value: Any) -> None:
    """Prints one JSON value."""
    typer.echo(json.dumps(value, indent=1))


def print_columns(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Aligned columns; the last one is as long as it is."""
    cells = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    for row in cells:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_tree(value: Mapping[str, Any], indent: str = "") -> None:
    """A JSON object as indented lines."""
    for key, part in value.items():
        if isinstance(part, Mapping) and part:
            typer.echo(f"{indent}{key}:")
            print_tree(part, indent + "  ")
        elif isinstance(part, list) and any(isinstance(entry, Mapping) for entry in part):
            typer.echo(f"{indent}{key}:")
            for entry in part:
                typer.echo(f"{indent}  - {json.dumps(entry)}")
        else:
            typer.echo(f"{indent}{key}: {part if isinstance(part, str) else json.dumps(part)}")
