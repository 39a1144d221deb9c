"""Version ranges (PEP 440), without the `packaging` library, which a device need not have."""

from __future__ import annotations

import re
from importlib import metadata

# Of a version: 1.20.3rc1.post2.dev4+local; an epoch does not occur among runtimes.
VERSION = re.compile(
    r"v?(?P<release>\d+(?:\.\d+)*)"
    r"(?:[._-]?(?P<phase>a|alpha|b|beta|rc|c|pre|preview)[._-]?(?P<pre>\d*))?"
    r"(?P<post>-(?P<implicit>\d+)|[._-]?(?:post|rev|r)[._-]?(?P<number>\d*))?"
    r"(?P<dev>[._-]?dev[._-]?(?P<dev_number>\d*))?"
    r"(?:\+(?P<local>[a-z0-9]+(?:[._-][a-z0-9]+)*))?"
)
CLAUSE = re.compile(r"(===|==|!=|<=|>=|~=|<|>)\s*(\S+)")
PHASES = {"a": 0, "alpha": 0, "b": 1, "beta": 1, "rc": 2, "c": 2, "pre": 2, "preview": 2}
FINAL = 3
NEVER = float("inf")
Key = tuple  # (release, phase, pre, post, dev), ordered as PEP 440 orders public versions


def installed_version(distribution: str) -> str | None:
    """From package metadata, without an import; None where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def key(version: str) -> Key:
    """A sortable form of a version, its local part left out. Raises ValueError where it is none."""
    match = VERSION.fullmatch(version.strip().lower())
    if match is None:
        raise ValueError(f"{version!r} is not a version")
    release = tuple(int(part) for part in match["release"].split("."))
    while len(release) > 1 and release[-1] == 0:
        release = release[:-1]
    dev = int(match["dev_number"] or 0) if match["dev"] else None
    post = int(match["implicit"] or match["number"] or 0) if match["post"] else -1
    if match["phase"]:
        phase, pre = PHASES[match["phase"]], int(match["pre"] or 0)
    else:
        # A development release of a final version comes before all its alphas.
        phase, pre = (-1 if dev is not None and post < 0 else FINAL), 0
    return (release, phase, pre, post, NEVER if dev is None else dev)


def in_range(version: str, version_range: str) -> bool:
    """Does the version fulfil every clause, such as ">=1.20,<2"? Pre-releases count as versions like any other.

    Raises ValueError where the version or the range is not one.
    """
    return all(_holds(version, clause.strip()) for clause in version_range.split(",") if clause.strip())


def _holds(version: str, clause: str) -> bool:
    match = CLAUSE.fullmatch(clause)
    if match is None:
        raise ValueError(f"{clause!r} is not a version clause")
    operator, bound = match.groups()
    if operator == "===":
        return version.lower() == bound.lower()
    if bound.endswith(".*") and operator in {"==", "!="}:
        return _starts_with(version, bound[:-2]) == (operator == "==")
    have, want = key(version), key(bound)
    # A local part that the clause names must be there; one that it does not name does not matter.
    equal = have == want and ("+" not in bound or _local(version) == _local(bound))
    early, developed = want[1] != FINAL, want[4] != NEVER
    # "<1.2" leaves out 1.2's own pre-releases, of which 1.2.dev0 is the first; ">1.2" leaves out its post-releases.
    limit = want if early or developed else key(f"{bound}.dev0")
    own_post = have[:3] == want[:3] and have[3] >= 0 and want[3] < 0 and not developed
    return {
        "==": equal,
        "!=": not equal,
        ">=": have >= want,
        "<=": have <= want,
        "<": have < limit,
        ">": have > want and not own_post,
        "~=": have >= want and _starts_with(version, _series(bound)) if operator == "~=" else False,
    }[operator]


def _series(bound: str) -> str:
    """What "~=1.4.2" stays within: "1.4"."""
    series = _release(bound)[:-1]
    if not series:
        raise ValueError(f"~={bound} needs at least two numbers")
    return ".".join(map(str, series))


def _starts_with(version: str, prefix: str) -> bool:
    want = tuple(int(part) for part in prefix.split("."))
    have = _release(version)
    return (have + (0,) * len(want))[: len(want)] == want


def _release(version: str) -> tuple[int, ...]:
    key(version)
    match = re.match(r"v?(\d+(?:\.\d+)*)", version.strip().lower())
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def _local(version: str) -> str:
    return re.sub(r"[._-]", ".", version.strip().lower().partition("+")[2])
