"""report.html and index.html: one file each, opened offline, without scripts."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.errors import InputError
from pipeline.report import text, view
from pipeline.report.record import Report, dumps

if TYPE_CHECKING:
    from jinja2 import Environment


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Writes report.json and report.html into `folder`, each whole or not at all.

    Raises InputError where the report is not of schema 1.
    """
    page = render(report)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "report.json", dumps(report))
    write(folder / "report.html", page)


def write_index(reports: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes one table over the devices of a build, each linked to DEVICE/report.html beside `path`.

    Devices whose reports lie there from earlier builds follow, and are said to be so; those of another schema do not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [view.row(Report.from_json(report)) for report in reports]
    rows += [view.row(report, earlier=True) for report in _earlier(path.parent, {r["device"] for r in reports})]
    write(path, environment().get_template("index.html.j2").render(recipe=reports[0]["recipe"], rows=rows))


def _earlier(folder: Path, built: set[str]) -> Iterator[Report]:
    for file in sorted(folder.glob("*/report.json")):
        # What an older or newer version wrote, or a disk damaged, is no reason to fail a build of other devices.
        with suppress(InputError, ValueError):
            report = Report.from_json(json.loads(file.read_text(encoding="utf-8")))
            if report.device == file.parent.name and report.device not in built:
                yield report


def render(report: Mapping[str, Any]) -> str:
    """The text of report.html. Raises InputError where the report is not of schema 1."""
    record = Report.from_json(report)
    return environment().get_template("template.html.j2").render(r=record, v=view.page(record))


def environment() -> "Environment":
    """What renders the templates of this folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {f.__name__: f for f in (text.number, text.ratio, text.seconds, text.size)}
    environment.filters.update(filters)
    return environment


def write(path: Path, content: str) -> None:
    """Whole or not at all; a file that says the same already keeps its time."""
    if path.exists() and path.read_text(encoding="utf-8") == content:
        return
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary = Path(file.name)
    temporary.chmod(0o644)
    temporary.replace(path)
