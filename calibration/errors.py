"""The errors a user can cause. `cli.py` catches them once and exits with their code."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class EdgewrightError(Exception):
    """A domain error: what is wrong (naming the file, line, key, node or tensor) and what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step


class InputError(EdgewrightError):
    """The call, recipe, profile, model or data is wrong."""

    exit_code = 2


class BudgetError(EdgewrightError):
    """A budget or gate does not hold."""

    exit_code = 3


class IntegrityError(EdgewrightError):
    """A bundle, signature or cache entry is not what it claims."""

    exit_code = 4


class UnsupportedError(EdgewrightError):
    """This device, instruction set, system or runtime is not one that can be worked on."""

    exit_code = 5


def near(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the one that was likely meant, else all that are known."""
    by_lower = {word.lower(): word for word in known}
    close = get_close_matches(name.lower(), by_lower, 1, 0.6)
    if close:
        return f" (did you mean {by_lower[close[0]]!r}?)"
    return f" (there are: {', '.join(by_lower.values())})" if by_lower else ""
