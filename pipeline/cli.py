"""The command line: parses, calls, prints. Errors that a user can cause are caught here, once, in `main`."""

import io
import platform
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from calibration.errors import EdgewrightError, InputError, UnsupportedError
from pipeline.console import print_columns, print_json, print_tree, short
from pipeline.telemetry import switch_off
from targets.device.errors import DeviceError

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Say more; show where an error came from.")]
Offline = Annotated[bool, typer.Option("--offline", help="Fetch nothing from the network.")]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/fashion.yaml.")]
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", metavar="NAME", help="Only this device; may be repeated. Any profile can be named."),
]
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, such as dist/fashion/host.")]

app = typer.Typer(
    name="edgewright",
    help="Models that are proven smaller, faster and right on the device they are for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
cache_app = typer.Typer(no_args_is_help=True, help="The store: $EDGEWRIGHT_STORE or ~/.cache/edgewright.")
app.add_typer(cache_app, name="cache")

DOCKER = (
    'docker run --rm --user "$(id -u)" -v "$PWD:/project" -v edgewright:/store edgewright build RECIPE (see Dockerfile)'
)


@app.command()
def build(
    recipe: RecipePath,
    device: Devices = None,
    out: Annotated[Path, typer.Option(help="Where RECIPE/DEVICE/ with report and bundle is written.")] = Path("dist"),
    fast: Annotated[bool, typer.Option("--fast", help="Try the first int8 route of each target alone.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each layer's int8 costs and gains.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
    offline: Offline = False,
) -> None:
    """Build one bundle a device, or say why not."""
    _begin(verbose, offline)
    from pipeline import run
    from pipeline.recipe import hastened, load_recipe
    from pipeline.store import Store

    if fast and explain:
        raise InputError("--fast looks at no layer, so that there is nothing to --explain", "give one of the two")
    if str(out) == ".":
        raise InputError("--out is the current folder", "name a folder of its own, such as dist")
    read = load_recipe(recipe, device, run_user_code=True)
    if read.user_files and not as_json:
        typer.echo(f"runs your code: {', '.join(str(file) for file in read.user_files)}", err=True)
    result = run.build(hastened(read) if fast else read, Store.default(), out, quiet=as_json)
    if as_json:
        print_json(result.reports)
    else:
        from pipeline.report.table import print_table

        print_table(result.reports, [result.folder / report["device"] / "report.html" for report in result.reports])
        if explain:
            from pipeline.report.sensitivities import print_sensitivities

            print_sensitivities(result.reports)
    raise typer.Exit(result.exit_code)


@app.command()
def plan(
    recipe: RecipePath,
    device: Devices = None,
    as_json: Json = False,
    verbose: Verbose = False,
    offline: Offline = False,
) -> None:
    """Say what a build would run, and why.

    A stage is cached, or the reason why it must run is given. None of your code is run.
    """
    _begin(verbose, offline)
    from pipeline.plan import make_plan
    from pipeline.recipe import load_recipe
    from pipeline.store import Store

    store = Store.default()
    made = make_plan(load_recipe(recipe, device), store)
    rows = [asdict(row) for row in made.rows(store)]
    rows += [
        {"stage": "plan", "device": name, "digest": "", "cached": False, "reason": f"refused: {error.message}"}
        for name, error in made.refused.items()
    ]
    if as_json:
        print_json(rows)
    else:
        shared: dict[tuple[str, str, str], dict[str, Any]] = {}
        for row in rows:
            merged = shared.setdefault((row["stage"], row["digest"], row["reason"]), row | {"device": []})
            merged["device"].append(row["device"])
        print_columns(
            ("stage", "devices", "digest", "state"),
            (
                (
                    r["stage"],
                    ", ".join(r["device"]),
                    short(r["digest"], verbose),
                    "cached" if r["cached"] else r["reason"],
                )
                for r in shared.values()
            ),
        )
    raise typer.Exit(max((error.exit_code for error in made.refused.values()), default=0))


@app.command()
def devices(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One device, or the path of a profile.")] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Write a profile for this machine.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
    offline: Offline = False,
) -> None:
    """List the device profiles, or show one."""
    _begin(verbose, offline)
    from targets.profile import HOST, load_profile, profile_names, profile_yaml

    if probe and name not in (None, HOST):
        raise InputError(f"--probe describes this machine, not {name!r}", "leave the name out")
    if probe or name is not None:
        profile = load_profile(HOST if probe or name is None else name)
        if as_json:
            print_json(asdict(profile))
        else:
            typer.echo(profile_yaml(profile), nl=False)
        return
    profiles = [load_profile(known) for known in profile_names()]
    if as_json:
        print_json([asdict(profile) for profile in profiles])
        return
    print_columns(
        ("device", "architecture", "cores", "runtimes", "description"),
        ((p.name, p.architecture, p.cores, ", ".join(r.target for r in p.runtimes), p.description) for p in profiles),
    )


@app.command()
def validate(
    bundle: BundlePath,
    junit: Annotated[Path | None, typer.Option(help="Also write the checks as JUnit XML.")] = None,
    on: Annotated[
        str, typer.Option(help="Where it is run: local, qemu:CPU as in qemu:Haswell, or qemu:aarch64.")
    ] = "local",
    as_json: Json = False,
    verbose: Verbose = False,
    offline: Offline = False,
) -> None:
    """Run a bundle and judge it."""
    _begin(verbose, offline)
    transport, _, cpu = on.partition(":")
    if transport == "qemu" and cpu:
        from targets.transport import qemu

        code, report = qemu.validate(bundle, cpu, junit)
    elif on == "local":
        from targets.transport import local

        code, report = local.validate(bundle, junit)
    else:
        raise InputError(
            f"there is no way to reach {on!r}", "use local or qemu:CPU, or run `python3 device.pyz validate` there"
        )
    if as_json:
        print_json(report)
    else:
        print_tree(report)
    raise typer.Exit(code)


@app.command()
def inspect(bundle: BundlePath, as_json: Json = False, verbose: Verbose = False, offline: Offline = False) -> None:
    """Say what a bundle is and needs.

    Its files are checked against its manifest. Nothing of it is run.
    """
    _begin(verbose, offline)
    from pipeline.inspection import inspect_bundle

    found = inspect_bundle(bundle)
    if as_json:
        print_json(found)
    else:
        print_tree(found if verbose else {key: value for key, value in found.items() if key != "files"})


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="The reference: a bundle, an .onnx file or an .xml.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is judged: a bundle, an .onnx file or an .xml.")],
    given: Annotated[
        Path | None, typer.Option("--input", metavar="FILE", help="Inputs as .npz; otherwise a bundle's golden ones.")
    ] = None,
    on: Annotated[str, typer.Option(help="Where B is run: local, or qemu:CPU, such as qemu:Haswell.")] = "local",
    on_a: Annotated[str, typer.Option("--on-a", help="Where A is run.")] = "local",
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a page with a plot.")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
    offline: Offline = False,
) -> None:
    """Name the first operator of B whose result differs from A's by more than expected.

    It exits with 3 where one does, or where the answers differ and what may be the reason could not be judged.
    """
    _begin(verbose, offline)
    from pipeline import diff as divergence
    from pipeline.report.divergence import print_divergence, record, write_page

    if html is not None and not html.resolve().parent.is_dir():
        raise InputError(f"{html}: its folder does not exist", "name a file in a folder that exists")
    found = divergence.diff(a, b, given, on_a=on_a, on_b=on)
    if html is not None:
        write_page(found, html)
    if as_json:
        print_json(record(found))
    else:
        print_divergence(found)
    raise typer.Exit(3 if found.differs else 0)


@cache_app.command("ls")
def cache_ls(as_json: Json = False, verbose: Verbose = False, offline: Offline = False) -> None:
    """List the artifacts, the longest unused first."""
    _begin(verbose, offline)
    from pipeline.store import Store

    store = Store.default()
    rows = store.ls()
    if as_json:
        print_json(rows)
        return
    print_columns(
        ("digest", "stage", "bytes", "days unused"),
        ((short(str(r["digest"]), verbose), r["stage"], r["size_bytes"], r["unused_days"]) for r in rows),
    )
    typer.echo(f"{len(rows)} artifacts in {store.root}", err=True)


@cache_app.command("prune")
def cache_prune(
    keep_days: Annotated[float, typer.Option(min=0, help="Keep what was used within so many days.")] = 30,
    as_json: Json = False,
    verbose: Verbose = False,
    offline: Offline = False,
) -> None:
    """Remove what no build or plan has used for some days."""
    _begin(verbose, offline)
    from pipeline.store import Store

    removed = Store.default().prune(keep_days)
    if as_json:
        print_json(removed)
        return
    if verbose:
        typer.echo("\n".join(removed))
    typer.echo(f"removed {len(removed)} artifacts that were not used for {keep_days:g} days")


def main() -> NoReturn:
    """The program. Exits with the code of README's table; a user's mistake shows a message and never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal whose encoding lacks a character shows its code instead of ending the program.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _check_system()
        app()
    except (EdgewrightError, DeviceError) as error:
        _fail(error.message, error.next_step, error.exit_code)
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        _fail(f"{error.strerror or error}{place}", "mend the path, its permissions or the disk and run it again", 1)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:
        if end.code == 130:
            _interrupted()
        raise
    sys.exit(0)


def _check_system() -> None:
    here = f"{platform.system()} with Python {platform.python_version()}"
    if sys.platform != "linux" or not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise UnsupportedError(
            f"edgewright builds on Linux with Python 3.11 to 3.13, not on {here}",
            f"use Docker, as the Dockerfile says: {DOCKER}",
        )


def _begin(verbose: bool, offline: bool) -> None:
    switch_off(offline)
    import logging

    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR)


def _fail(message: str, next_step: str, code: int) -> NoReturn:
    if "--verbose" in sys.argv:
        traceback.print_exc()
    if "--json" in sys.argv:
        print_json({"error": message, "next_step": next_step, "exit_code": code})
    typer.echo(f"edgewright: {message}", err=True)
    if next_step:
        typer.echo(f"  next: {next_step}", err=True)
    sys.exit(code)


def _interrupted() -> NoReturn:
    typer.echo("edgewright: interrupted; what is done is kept, and the same command goes on from there", err=True)
    sys.exit(130)


if __name__ == "__main__":
    main()
