"""The reader of the Dockerfile, and what the project's own says."""

import json
from pathlib import Path

import pytest
from dockerfile import Stage, ignored, parse


@pytest.fixture(scope="module")
def stages(repository: Path) -> dict[str, Stage]:
    return {stage.name: stage for stage in parse((repository / "Dockerfile").read_text())}


def test_continued_lines_are_one_instruction() -> None:
    (stage,) = parse("FROM a AS b\n# a comment\nRUN one \\\n    # inside\n    && two\nUSER x\n")
    assert [(i.line, i.name, i.text) for i in stage.instructions] == [(3, "RUN", "one && two"), (6, "USER", "x")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("FROM a\nADD x /x", 2),
        ("RUN x", 1),
        ("FROM --platform=arm64 a AS b", 1),
        ("FROM a\n\nHEALTHCHECK x", 3),
        ("FROM a\nRUN x \\", 2),
    ],
)
def test_what_is_not_known_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(SystemExit, match=f"^Dockerfile:{line}: "):
        parse(text)


@pytest.mark.parametrize("text", ["--chown=a x /x", "*.py /x", "/x"])
def test_forms_of_copy_that_are_not_known_are_refused(text: str) -> None:
    (stage,) = parse(f"FROM a\nCOPY {text}")
    with pytest.raises(SystemExit, match=r"^Dockerfile:2: COPY: "):
        stage.instructions[0].copied({})


def test_variables_are_filled_in() -> None:
    (stage,) = parse('FROM a\nENV PATH=/x:$PATH EMPTY=${NONE} SAID="two words"')
    expected = {"PATH": "/x:/bin", "EMPTY": "", "SAID": "two words"}
    assert stage.instructions[0].pairs({"PATH": "/bin"}) == expected


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("recipes/fashion.py", True),
        ("targets/target.py", False),
        ("targets/device/__pycache__/x.pyc", True),
        ("README.md", False),
        ("docs/README.md", True),
    ],
)
def test_dockerignore_lets_in_only_what_is_named(path: str, out: bool) -> None:
    assert ignored(path, ["*", "!targets", "!README.md", "**/__pycache__"]) is out


def test_what_the_images_copy_is_there_and_let_in(repository: Path, stages: dict[str, Stage]) -> None:
    patterns = [p for p in (repository / ".dockerignore").read_text().splitlines() if p and not p.startswith("#")]
    copies = [i for stage in stages.values() for i in stage.instructions if i.name == "COPY"]
    assert copies
    for copy in copies:
        stage, sources, _ = copy.copied({})
        for source in sources if stage is None else []:
            assert (repository / source).exists(), source
            assert not ignored(source, patterns), source


@pytest.mark.parametrize("name", ["build", "device"])
def test_images_do_not_run_as_root(stages: dict[str, Stage], name: str) -> None:
    last = {i.name: i for i in stages[name].instructions}
    assert last["USER"].text not in ("root", "0")
    assert json.loads(last["ENTRYPOINT"].text)


def test_the_plain_build_gives_the_build_image(stages: dict[str, Stage]) -> None:
    assert list(stages)[-1] == "build"
