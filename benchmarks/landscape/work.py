"""What the processes that fill one table do: claim a training, run it, append its row.

A claim is a lock on a file of its own beside the table, which the system takes back from a
process that dies.  Nothing is trained twice, and whatever ends a process, another one, or a
later one, goes on from the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from benchmarks.landscape.plan import Request, jobs
from benchmarks.landscape.recipes import Job, Trainer
from benchmarks.landscape.table import Header, Row, Table, append, load
from search.errors import ConfigError


def fill(path: Path, request: Request, trainer: Trainer) -> Iterator[Row]:
    """Trains what `request` asks for and the table at `path` lacks; each row once it is there.

    Raises:
        ConfigError: the table is of other images, settings or networks than these.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    append(path, trainer.header)
    require_ours(path, load(path, networks=0), trainer.header)
    claims = path.with_name(f"{path.name}.claims")
    claims.mkdir(exist_ok=True)
    while True:
        with _claimed(path, request, claims) as job:
            if job is None:
                return
            checkpoint = claims / f"{_name(job)}.checkpoint"
            row = trainer.train(job, checkpoint)
            append(path, row)
            checkpoint.unlink(missing_ok=True)
        yield row


def require_ours(path: Path, table: Table, header: Header) -> None:
    """Lets nothing pass but a table that this program could have written on these images.

    Raises:
        ConfigError: `table` is of other images or settings than `header`, or its choices
            mean other trainings now than they did.
    """
    if table.header.images != header.images:
        raise ConfigError(f"{path}: is of other images ({table.header.images}, not these)")
    if table.header.settings != header.settings:
        raise ConfigError(f"{path}: is of other choices, limits or recipes; name a new table")
    for number, row in enumerate(table.rows, 2):
        candidate = Job.of(row).candidate
        if (candidate.architecture.hash, candidate.hash) != (row.architecture, row.candidate):
            raise ConfigError(f"{path}: line {number}: its choices mean another training now")


@contextmanager
def _claimed(path: Path, request: Request, claims: Path) -> Iterator[Job | None]:
    """The first training that nobody has done or is doing; None where there is none."""
    rows = load(path, networks=0).rows
    done = {(row.recipe, row.candidate) for row in rows}
    for job in jobs(request, rows):
        if _key(job) in done:
            continue
        try:
            with FileLock(claims / f"{_name(job)}.lock", timeout=0):
                # Its row may have come between the reading of the table and this claim.
                now = load(path, networks=0).rows[len(rows) :]
                if _key(job) not in {(row.recipe, row.candidate) for row in now}:
                    yield job
                    return
        except Timeout:
            continue
    yield None


def _key(job: Job) -> tuple[str, str]:
    return job.recipe, job.candidate.hash


def _name(job: Job) -> str:
    return "-".join(_key(job))
