"""What a stage is: a frozen dataclass whose fields are its YAML keys, called with artifacts, filling one folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True)
class Work:
    """What a stage is handed besides its inputs.

    out: an empty folder; what the stage writes there is the artifact.
    scratch: a folder that outlives a killed run of the same digest on the same inputs: checkpoints. Removed when done.
    recipe_folder: paths in the recipe are relative to it.
    measuring: a context manager: within it this process has the machine to itself among all builds.
    progress: called with a fraction from 0 to 1 and a short text.
    say: called with a line that is to stay on the screen.
    """

    out: Path
    scratch: Path
    recipe_folder: Path
    measuring: Callable[[], Any]
    progress: Callable[[float, str], None]
    say: Callable[[str], None] = lambda _text: None


class Stage(Protocol):
    """One step of a build. Its file is pipeline/stages/<name>.py and its class the file's name in CamelCase.

    takes: the roles it is called with, as keyword arguments: artifact folders (Path) such as "data", "teacher",
        "model", "logits", "package", or values such as "task", "profile". The digest covers each of them.
    gives: the role that its artifact takes from here on.
    distributions: the Python distributions whose versions change what it produces.
    revision: raised when a change of the code changes what it produces.
    needs_student: may be left out; True where it has nothing to do without a student in the recipe.
    needs_torch: may be left out; True of a stage that works on the package and refuses a model that came as ONNX. All
        that work on a model do.
    follows: may be left out; the stage whose artifact it reads, which must come before it in a recipe.

    Called with its roles by name; raises EdgewrightError where it cannot do its part.
    """

    takes: ClassVar[tuple[str, ...]]
    gives: ClassVar[str]
    distributions: ClassVar[tuple[str, ...]]
    revision: ClassVar[int]

    def __call__(self, work: Work, **roles: Any) -> None: ...
