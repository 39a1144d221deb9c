"""What get-qemu does: QEMU and an aarch64 root folder from Debian packages, and the runtimes from PyPI."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True
from packages import ROOT, TOOLS, Apt, pip, run, scratch  # noqa: E402

HOME = TOOLS / "qemu"
PROGRAMS = ("qemu-x86_64", "qemu-aarch64")
# The first that shows programs the emulated processor in /proc/cpuinfo; they crash on finding another architecture's.
OLDEST = (8, 2)
# The first Debian whose QEMU is new enough; its Python is taken too, whatever Debian this is.
SUITE = "trixie"
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# What the unpacked folder's Python needs to run ONNX Runtime; their versions are those of constraints.txt.
LIBRARIES = ("python3", "libstdc++6")
WHEELS = ("numpy", "onnxruntime")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")


def qemu() -> None:
    """The two programs in .tools/qemu/usr/bin, unless the system's are new enough."""
    if all(new_enough(name) for name in PROGRAMS):
        return
    say(f"unpacking QEMU of Debian {SUITE}")
    with scratch() as folder:
        for package in apt("amd64").download(["qemu-user"], folder):
            # All of the package would be 450 MB.
            members = [f"./usr/bin/{name}" for name in PROGRAMS]
            run(
                ["sh", "-c", 'deb=$1; shift; dpkg --fsys-tarfile "$deb" | tar -x "$@"', "sh", str(package), *members],
                folder,
            )
        replace(folder / "usr", HOME / "usr")


def new_enough(name: str) -> bool:
    """Is the program here, or on PATH as the first of its name, in a version that will do?"""
    own = HOME / "usr/bin" / name
    programs = [str(own)] if own.is_file() else [found for n in (f"{name}-static", name) if (found := shutil.which(n))]
    if not programs:
        return False
    shown = subprocess.run([programs[0], "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"version (\d+)\.(\d+)", shown)
    return version is not None and (int(version[1]), int(version[2])) >= OLDEST


def sysroot() -> None:
    """.tools/qemu/aarch64, a root folder whose python3 has numpy and onnxruntime."""
    versions = (ROOT / "constraints.txt").read_text().splitlines()
    wanted = [line for line in versions if line.partition("==")[0] in WHEELS]
    done, out = HOME / "aarch64.contents", HOME / "aarch64"
    contents = "\n".join([SUITE, *LIBRARIES, *wanted, ""])
    if out.is_dir() and done.is_file() and done.read_text() == contents:
        return
    say(f"unpacking the aarch64 Python of Debian {SUITE}, {', '.join(wanted)}")
    done.unlink(missing_ok=True)
    with scratch() as folder:
        root, packages = folder / "root", folder / "packages"
        packages.mkdir()
        foreign = apt("arm64")
        for package in foreign.download(foreign.with_dependencies(list(LIBRARIES)), packages):
            run(["dpkg", "-x", str(package), str(root)])
        # base-files has these, and much else.
        for merged in ("bin", "lib", "sbin"):
            (root / merged).symlink_to(f"usr/{merged}")
        for unused in ("usr/share/doc", "usr/share/man", "usr/share/locale"):
            shutil.rmtree(root / unused, ignore_errors=True)
        python = (root / "usr/bin/python3").readlink().name.removeprefix("python")
        into = ["--target", str(root / "usr/lib/python3/dist-packages"), "--python-version", python]
        into += [word for platform in PLATFORMS for word in ("--platform", platform)]
        run([*pip(), "install", "--quiet", "--no-deps", "--no-compile", "--only-binary=:all:", *into, *wanted])
        replace(root, out)
    done.write_text(contents)


def apt(architecture: str) -> Apt:
    """Debian's packages of SUITE for an architecture, from the mirror that this system uses."""
    if not KEYS.is_file():
        raise SystemExit(
            f"get-qemu: no {KEYS}, by which Debian's packages are checked: install the package debian-archive-keyring"
        )
    command = ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]
    repositories = [line.split() for line in run(command).splitlines()]
    mirror = next((line[1] for line in repositories if line[0] == "Debian"), "http://deb.debian.org/debian/")
    home = TOOLS / f"apt-{architecture}"
    home.mkdir(parents=True, exist_ok=True)
    (home / "sources.list").write_text(f"deb [signed-by={KEYS}] {mirror} {SUITE} main\n")
    (home / "status").touch()
    return Apt(
        home.name,
        f'Dir::Etc::SourceList "{home}/sources.list";\n'
        'Dir::Etc::SourceParts "/dev/null";\n'
        f'Dir::State::status "{home}/status";\n'
        f'APT::Architecture "{architecture}";\n'
        f'APT::Architectures "{architecture}";\n',
    )


def replace(new: Path, old: Path) -> None:
    """Moves a folder to where another may be."""
    old.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(old, ignore_errors=True)
    new.rename(old)


def say(text: str) -> None:
    print(f"get-qemu: {text}", flush=True)


if __name__ == "__main__":
    qemu()
    sysroot()
