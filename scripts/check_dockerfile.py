"""Runs every instruction of the Dockerfile in a fresh Debian root, without a Docker engine. Needs root.

A stage is a folder: a copy of its base's, with what its instructions did. The base image is made by debootstrap and
kept in $XDG_CACHE_HOME/edgewright-debian. The package clients in it get this machine's settings (indexes, proxies,
certificates), since a fresh root knows none. At the end of each stage its entry point is run with --help.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile import Instruction, Stage, ignored, parse

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgewright-debian"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SETTINGS = (
    "/etc/resolv.conf",
    "/etc/pip.conf",
    "/etc/xdg/pip",
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d",
    "/etc/apt/apt.conf.d",
    "/etc/apt/keyrings",
    "/etc/ssl/certs",
    "/usr/local/share/ca-certificates",
    "~/.config/pip",
    "~/.pip",
)
PASSED_ON = re.compile(r"PIP_|SSL_CERT|REQUESTS_CA|CURL_CA|https?_proxy|no_proxy", re.IGNORECASE)
# In a mount namespace of its own: what is mounted is gone with the command, whatever ends it.
IN_ROOT = """set -e
root=$1; user=$2; folders=$3; shift 3
mount -t proc proc "$root/proc"; mount --rbind /dev "$root/dev"
for folder in $folders; do mkdir -p "$root$folder"; mount --bind "$folder" "$root$folder"; done
exec chroot --userspec="$user" "$root" "$@"
"""


@dataclass
class Image:
    """The state of a stage while its instructions run."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    arguments: dict[str, str] = field(default_factory=dict[str, str])
    folder: str = "/"
    user: str = "root"
    entrypoint: list[str] = field(default_factory=list[str])
    command: list[str] = field(default_factory=list[str])

    @property
    def variables(self) -> dict[str, str]:
        return self.arguments | self.environment

    def path(self, inside: str) -> Path:
        return self.root / os.path.normpath(Path(self.folder) / inside).lstrip("/")


def debian(suite: str) -> Path:
    """The root of a fresh Debian of this suite, made once."""
    made = CACHE / suite
    if made.exists():
        return made
    if shutil.which("debootstrap") is None:
        print("installing Debian's debootstrap", flush=True)
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "debootstrap"], check=True, stdout=subprocess.DEVNULL)
    sources = [*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    text = "\n".join(source.read_text() for source in sources if source.suffix in {".list", ".sources"})
    mirrors = re.findall(r"^(?:URIs:|deb (?:\[[^]]*\] )?)\s*(\S+)", text, re.MULTILINE)
    unfinished = CACHE / f"{suite}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    print(f"making a Debian {suite} root in {made} (a minute or two)", flush=True)
    command = ["debootstrap", "--variant=minbase", suite, str(unfinished), *mirrors[:1]]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"debootstrap failed:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    (unfinished / "etc/apt/sources.list").unlink()  # this machine's are carried in
    return unfinished.rename(made)


def carry_settings(root: Path) -> None:
    """Copies this machine's settings of apt and pip, and its certificates, to where they are here; ~ is /root."""
    for name in SETTINGS:
        source = Path(name).expanduser()
        target = root / ("root" + name[1:] if name.startswith("~") else name[1:])
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore_dangling_symlinks=True)
        elif source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copyfile(source, target)


def local_folders() -> str:
    """Folders of this machine that pip's settings name as sources of packages."""
    pip = subprocess.run(["python3", "-m", "pip", "config", "list"], check=False, capture_output=True, text=True)
    named = {Path(p) for p in re.findall(r"(?:file://|[ '])(/[^ ']+)", pip.stdout)}
    return " ".join(sorted(str(p.parent if p.name == "simple" else p) for p in named if p.is_dir()))


def run(image: Image, command: list[str]) -> int:
    """The exit status of `command`, run in the image as its user and in its folder."""
    passed = {k: v for k, v in os.environ.items() if PASSED_ON.match(k)}
    variables = [f"{k}={v}" for k, v in (passed | image.variables).items()]
    inside = ["/usr/bin/env", "-i", *variables, "/bin/sh", "-c", 'cd "$0" && exec "$@"', image.folder, *command]
    outside = ["unshare", "--mount", "--", "/bin/sh", "-c", IN_ROOT, "sh", str(image.root), image.user, local_folders()]
    return subprocess.run([*outside, *inside], check=False, stdin=subprocess.DEVNULL).returncode


def copy(image: Image, instruction: Instruction, images: dict[str, Image]) -> None:
    """COPY: a folder's contents go into the destination; a file too, if that is a folder or ends in a slash."""
    stage, sources, destination = instruction.copied(image.variables)
    if stage is not None and stage not in images:
        instruction.refuse(f"no earlier stage is named {stage}")
    patterns = [p for p in (ROOT / ".dockerignore").read_text().splitlines() if p and not p.startswith("#")]
    target = image.path(destination)
    for name in sources:
        source = images[stage].path("/" + name) if stage else ROOT / name
        if not source.exists():
            instruction.refuse(f"{name} is not there")
        if stage is None and ignored(name, patterns):
            instruction.refuse(f".dockerignore leaves {name} out")
        if source.is_file():
            into = target / source.name if target.is_dir() or destination.endswith("/") or len(sources) > 1 else target
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, into)
            continue

        def left_out(folder: str, names: list[str], stage: str | None = stage) -> list[str]:
            inside = Path(folder).relative_to(ROOT) if stage is None else Path()
            return [n for n in names if stage is None and ignored(str(inside / n), patterns)]

        shutil.copytree(source, target, ignore=left_out, dirs_exist_ok=True, symlinks=True)


def execute(image: Image, instruction: Instruction, images: dict[str, Image]) -> None:
    """Does to the image what the instruction says. Exits naming its line where it fails."""
    match instruction.name:
        case "ARG":
            image.arguments |= instruction.pairs(image.variables)
        case "ENV":
            image.environment |= instruction.pairs(image.variables)
        case "WORKDIR":
            image.folder = "/" + str(image.path(instruction.text).relative_to(image.root))
            image.path(".").mkdir(parents=True, exist_ok=True)
        case "USER":
            image.user = instruction.text
        case "ENTRYPOINT":
            image.entrypoint, image.command = instruction.command(), []
        case "CMD":
            image.command = instruction.command()
        case "COPY":
            copy(image, instruction, images)
        case _:
            if status := run(image, ["/bin/sh", "-c", instruction.text]):
                instruction.refuse(f"exit status {status}")


def build(stage: Stage, images: dict[str, Image], folder: Path) -> Image:
    """Runs a stage's instructions and its entry point."""
    root = folder / stage.name
    if stage.base in images:
        base = images[stage.base]
        image = Image(root, dict(base.environment), {}, base.folder, base.user, base.entrypoint, base.command)
        source = base.root
    elif suite := re.fullmatch(r"debian:(\w+)-slim", stage.base):
        image, source = Image(root), debian(suite[1])
    else:
        raise SystemExit(
            f"Dockerfile:{stage.line}: FROM: {stage.base} is neither an earlier stage nor debian:SUITE-slim"
        )
    subprocess.run(["cp", "-a", "--reflink=auto", f"{source}/.", root], check=True)
    carry_settings(root)
    for instruction in stage.instructions:
        start = time.monotonic()
        print(f"{stage.name}: {instruction.name} {instruction.text[:100]}", flush=True)
        execute(image, instruction, images)
        if instruction.name == "RUN":
            print(f"{stage.name}: done in {time.monotonic() - start:.0f} s", flush=True)
    if image.entrypoint:
        print(f"{stage.name}: {' '.join(image.entrypoint)} --help", flush=True)
        if status := run(image, [*image.entrypoint, "--help"]):
            raise SystemExit(f"Dockerfile: {stage.name}: the entry point's --help ended with exit status {status}")
    return image


def needed(stages: list[Stage], wanted: list[str]) -> list[Stage]:
    """The wanted stages and all that they are built from, in order."""
    names = set(wanted)
    for stage in reversed(stages):
        if stage.name in names:
            copied = [i.copied({})[0] for i in stage.instructions if i.name == "COPY"]
            names |= {stage.base, *(name for name in copied if name)}
    return [stage for stage in stages if stage.name in names]


def main() -> None:
    parser = argparse.ArgumentParser(prog="check-dockerfile", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("stage", nargs="*", help="with what they need; all of them if none is named")
    stages = parse((ROOT / "Dockerfile").read_text())
    names = [stage.name for stage in stages]
    wanted = parser.parse_args().stage or names
    if unknown := set(wanted) - set(names):
        sys.exit(f"check-dockerfile: no stage {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if os.geteuid() != 0:
        sys.exit("check-dockerfile: needs root, to make a Debian root and to run in it: sudo scripts/check-dockerfile")
    with tempfile.TemporaryDirectory(prefix="dockerfile.") as folder:
        images: dict[str, Image] = {}
        for stage in needed(stages, wanted):
            images[stage.name] = build(stage, images, Path(folder))
    print(f"check-dockerfile: {', '.join(images)}: every instruction ran")


if __name__ == "__main__":
    main()
