"""What a person sees while a build runs: a line for each stage that is done, a bar for the one that works."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class BuildProgress:
    """Shows a build on stderr. A stage that was cached is only counted, so that a build with nothing to do is quiet."""

    def __init__(self, quiet: bool = False) -> None:
        # The stream itself: it stays visible while a stage silences what a library writes to sys.stderr.
        self.console = Console(file=sys.stderr, quiet=quiet, highlight=False)
        self._cached = 0
        self._bar = Progress(
            TextColumn("  {task.description:<18}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self._cached:
            self.console.print(f"  {self._cached} stages were cached")

    def cached(self) -> None:
        """A stage's artifact was there."""
        self._cached += 1

    def begin(self, label: str, devices: Sequence[str], reason: str) -> None:
        """A stage starts to work."""
        self._label, self._devices = label, devices
        self._task = self._bar.add_task(label, total=1.0, text=reason)

    def update(self, fraction: float, text: str) -> None:
        """The working stage has come this far."""
        self._bar.update(self._task, completed=fraction, text=text)

    def end(self, seconds: float, refusal: str = "") -> None:
        """The working stage is done, or refused."""
        self._bar.remove_task(self._task)
        mark = "[red]✗[/]" if refusal else "[green]✓[/]"
        devices = ", ".join(self._devices)
        self.console.print(f"  {mark} {self._label:<18} {seconds:6.1f} s  [dim]{devices}[/]", soft_wrap=True)
        if refusal:
            self.console.print(f"    {refusal}", markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line about the build as a whole."""
        self.console.print(f"  {text}", markup=False, soft_wrap=True)
