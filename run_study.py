"""The command line: parse, call, exit code.  What the commands do stands in `search`."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

try:
    import typer
    from typer.exceptions import TyperException

    from search.commands.typed import called
    from search.config.secrecy import concealed, require_no_password
    from search.errors import WARNING, ConfigError, LimitsError, MachineError, printable
    from search.presets import PRESETS
    from search.version import NAME, version
except KeyboardInterrupt:
    sys.exit(128 + signal.SIGINT)

# Before torch is imported: threads that wait spin for some microseconds and then sleep.  The layers
# of small networks end sooner than a thread wakes up, but endless spinning takes the core from
# whoever else is on a shared machine (benchmarks/waiting.py).  The second is libgomp's own name.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

app = typer.Typer(
    help="Searches small convolutional networks under hard limits.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
)

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study file or a study's name.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="A.B=V", help="Overrules one key of the study file; A.B= unsets it."
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Database; else STUDY_STORAGE, else the file's, else SQLite in studies/.",
    ),
]
Device = Annotated[str, typer.Option(metavar="D", help="auto, cpu, cuda, cuda:1 or mps.")]
Modules = Annotated[
    list[str] | None,
    typer.Option(
        "--module",
        metavar="MODULE",
        help="Lets the trainings of this module run its code: file.py:factory or module:factory.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Prints one JSON document.")]


@app.command(epilog="Example: `run_study.py launch studies/quickstart.toml`")
def launch(
    study: StudyName,
    overrides: Overrides = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trained trials in all.")] = None,
    hours: Annotated[
        float | None, typer.Option(min=0, help="Hours of work in all, over resumes.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Worker processes.")] = 1,
    per_gpu: Annotated[
        int | None, typer.Option(min=1, max=64, help="Workers that share a GPU.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Ray cluster for them: HOST:PORT, auto or local."),
    ] = None,
    modules: Modules = None,
    begin: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STUDY|TARGET",
            help="Takes over what an older study (also URL:NAME) has found, or begins with a "
            "network: architecture.json or STUDY:TRIAL.",
        ),
    ] = None,
    storage: Storage = None,
    device: Device = "auto",
) -> int:
    """Creates or resumes a study and runs it until target or budget."""
    from search.commands import studies

    budget = [f"study.trials={trials}"] if trials is not None else []
    budget += [f"study.hours={hours}"] if hours is not None else []
    return studies.launch(
        study,
        [*(overrides or []), *budget],
        storage,
        workers=workers,
        per_gpu=per_gpu,
        device=device,
        ray=ray,
        begin=begin,
        modules=modules or [],
    )


@app.command(epilog="Example: `run_study.py init --preset quickstart`")
def init(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Else studies/PRESET.toml.")
    ] = None,
    preset: Annotated[
        str, typer.Option(metavar="P", help=f"Whose rules and space: {', '.join(PRESETS)}.")
    ] = "quickstart",
) -> int:
    """Writes a first study file."""
    from search.commands import machine

    return machine.init(preset, file)


@app.command("list", epilog="Example: `run_study.py list`")
def list_studies(storage: Storage = None, json: Json = False) -> int:
    """Shows which studies there are."""
    from search.commands import studies

    return studies.list_studies(storage, as_json=json)


@app.command(epilog="Example: `run_study.py compare cifar10 cifar10-fast --html compare.html`")
def compare(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY…", help="Files or names.")],
    storage: Storage = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Writes a page with figures, too.")
    ] = None,
    json: Json = False,
) -> int:
    """Shows studies side by side."""
    from search.commands import comparison

    return comparison.compare(studies, storage, html, json)


@app.command(epilog="Example: `run_study.py delete quickstart`")
def delete(
    study: StudyName,
    yes: Annotated[bool, typer.Option("--yes", help="Does not ask.")] = False,
    storage: Storage = None,
) -> int:
    """Deletes a study, its checkpoints and logs, after asking."""
    from search.commands import studies

    return studies.delete(study, storage, sure=yes)


@app.command(epilog="Example: `run_study.py worker cifar10 --storage postgresql://me@host/studies`")
def worker(
    study: StudyName,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the study's images lie here.")
    ] = None,
    trial: Annotated[
        int | None, typer.Option(min=0, help="Runs this waiting trial, and no other.")
    ] = None,
    modules: Modules = None,
    overrides: Overrides = None,
    storage: Storage = None,
    device: Device = "auto",
) -> int:
    """Joins a study from any machine."""
    from search.commands import studies

    return studies.worker(
        study,
        overrides or [],
        storage,
        root=data,
        device=device,
        only=trial,
        modules=modules or [],
    )


@app.command(epilog="Example: `run_study.py train network.json studies/cifar10.toml`")
def train(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="architecture.json, STUDY:TRIAL, file.py:factory or module:factory.",
        ),
    ],
    study: StudyName,
    overrides: Overrides = None,
    storage: Storage = None,
    device: Device = "auto",
) -> int:
    """Trains one given network by a study's recipe, as a trial of the study.

    `file.py:factory` and `module:factory` are run, with all the rights of who trains them.
    """
    from search.commands import studies

    return studies.train(target, study, overrides or [], storage, device=device)


@app.command(epilog="Example: `run_study.py status quickstart`")
def status(study: StudyName, storage: Storage = None, json: Json = False) -> int:
    """Shows trials, the best, rejections by rule, workers and what is left."""
    from search.commands import studies

    return studies.status(study, storage, as_json=json)


@app.command(epilog="Example: `run_study.py sample studies/cifar10.toml -n 1000`")
def sample(
    study: StudyName,
    n: Annotated[int, typer.Option("-n", min=1, max=10_000_000, help="Proposals.")] = 1000,
    overrides: Overrides = None,
    storage: Storage = None,
    json: Json = False,
) -> int:
    """Proposes without training: candidates, acceptance rate, rejections by rule."""
    from search.commands import networks

    return networks.sample(study, n, overrides or [], storage, as_json=json)


@app.command(epilog="Example: `run_study.py check studies/baseline.json`")
def check(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="architecture.json, STUDY:TRIAL, file.py:factory or module:factory.",
        ),
    ],
    input: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="C,H,W",
            help="Else an architecture's own; for a module 3,32,32 or 3,224,224.",
        ),
    ] = None,
    limits: Annotated[
        str | None, typer.Option(metavar="STUDY", help="The study whose limits count.")
    ] = None,
    overrides: Overrides = None,
    storage: Storage = None,
    json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Prints the table as Markdown.")
    ] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Prints the table as CSV.")] = False,
) -> int:
    """Prints receptive-field table, counts and verdict of a network.

    `file.py:factory` and `module:factory` are run, with all the rights of who checks them.
    """
    from search.commands import networks

    forms = [
        name for name, asked in (("json", json), ("markdown", markdown), ("csv", csv)) if asked
    ]
    if len(forms) > 1:
        raise ConfigError(f"--{' and --'.join(forms)}: name one of them")
    return networks.check(
        target, input, limits, overrides or [], storage, form=forms[0] if forms else "text"
    )


@app.command(epilog="Example: `run_study.py dashboard quickstart`")
def dashboard(
    study: StudyName,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port; 0 takes a free one.")
    ] = 8080,
    host: Annotated[
        str, typer.Option(help="Address; other than loopback needs --token.")
    ] = "127.0.0.1",
    token: Annotated[
        bool,
        typer.Option("--token", help="A browser must present STUDY_TOKEN, or a fresh token."),
    ] = False,
    write: Annotated[
        bool, typer.Option("--write", help="Allows changes from the browser.")
    ] = False,
    storage: Storage = None,
) -> int:
    """Shows a study in optuna-dashboard.  A token in `STUDY_TOKEN` is asked for in any case."""
    from search.commands import studies

    return studies.dashboard(study, storage, host=host, port=port, token=token, write=write)


@app.command(epilog="Example: `run_study.py export quickstart --out exports/quickstart`")
def export(
    study: StudyName,
    trial: Annotated[int | None, typer.Option(min=0, help="Number; else the best.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Else exports/STUDY.")] = None,
    retrain: Annotated[bool, typer.Option(help="Retrains on training + validation images.")] = True,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="For microcontrollers, too: int8 as ONNX, .tflite and C++."),
    ] = False,
    modules: Modules = None,
    overrides: Overrides = None,
    storage: Storage = None,
    device: Device = "auto",
) -> int:
    """Writes the winner's bundle: code, weights, ONNX, report and proof."""
    from search.commands import bundles

    return bundles.export(
        study,
        storage,
        overrides or [],
        trial=trial,
        out=out,
        retrain=retrain,
        int8=int8,
        device=device,
        modules=modules or [],
    )


@app.command(epilog="Example: `run_study.py verify exports/quickstart`")
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The directory of a bundle.")],
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the bundle's data set lies here.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**32 - 1, metavar="N", help="Repeats the random images of another run."
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Proves a bundle again: rules, code = weights = ONNX, accuracy."""
    from search.commands import bundles

    return bundles.verify(bundle, data, seed=seed, as_json=json)


@app.command(epilog="Example: `run_study.py doctor studies/cifar10.toml`")
def doctor(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="The study to prepare for.")
    ] = "studies/quickstart.toml",
    overrides: Overrides = None,
    storage: Storage = None,
    device: Device = "auto",
    json: Json = False,
) -> int:
    """Tells what is there, what is missing, and the command that mends it."""
    from search.commands import machine

    return machine.doctor(study, overrides or [], storage, device=device, as_json=json)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"{NAME} {version()}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    asked: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Shows the version."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Shows tracebacks.")] = False,
) -> None:
    level, form = logging.DEBUG if debug else logging.WARNING, "%(message)s"
    if context.invoked_subcommand == "worker":
        logging.addLevelName(logging.INFO, "")
        logging.addLevelName(logging.WARNING, WARNING)
        form = "%(levelname)s%(message)s"
    logging.basicConfig(level=level, format=form, stream=sys.stderr)
    logging.getLogger("search").setLevel(logging.DEBUG if debug else logging.INFO)


def main() -> None:
    """Runs the command line and exits with its code."""
    code = run(sys.argv[1:])
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError as error:  # Python would try again, and exit with 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout and isinstance(error, BrokenPipeError):
                code = 128 + signal.SIGPIPE
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """The exit code of the command line `arguments`.

    0 done, 1 a rule is broken or the budget ended short of the target, 2 bad usage or
    input, 3 environment, 128 + signal.
    """
    try:
        for word in arguments:
            require_no_password(word)
        return int(app(arguments, standalone_mode=False) or 0)
    except typer.Exit as end:
        return int(end.exit_code)
    except typer.Abort as end:
        if not isinstance(end.__cause__, EOFError):
            return 130
        return _tell(end.__cause__)  # of a file, which typer takes for the end of the terminal
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich makes exit 1 of it
            return 128 + signal.SIGPIPE
        raise
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except Exception as error:
        if "--debug" in arguments:
            raise
        return _tell(error)


def _tell(error: BaseException) -> int:
    """Says what is wrong; answers with the exit code."""
    code, message = _ending(error)
    if message:  # without a command, the help is all there is to say
        lines = map(printable, f"{called()}: {message}".splitlines())
        with suppress(OSError):  # where nobody can be told, the code tells
            print(*lines, sep="\n", file=sys.stderr)
    return code


def _ending(error: BaseException) -> tuple[int, str]:
    """Exit code and line for an error."""
    if isinstance(error, LimitsError):
        return 1, str(error)
    if isinstance(error, TyperException):
        message = error.format_message()
        return error.exit_code, message and f"{message} (--help shows the usage)"
    if isinstance(error, ValueError):
        return 2, str(error)
    if isinstance(error, MachineError):
        return 3, str(error)
    if isinstance(error, OSError) and error.strerror:
        return 3, f"{error.filename or type(error).__name__}: {error.strerror}"
    found = f"{type(error).__name__}: {concealed(str(error))}"
    return 3, f"{found} (--debug before the command shows where)"


if __name__ == "__main__":
    main()
