"""The errors a user can cause. `cli.py` catches them once and exits with their code."""

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
