"""Many runs: side by side on this machine or on a Dask cluster, each appended when it is finished, and taken up again.

A run depends only on its config: every array product is made with one thread, and every seed is in the config.
So the rows are the same in any order and with any number of workers, but for the seconds that they took.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from minipeft.files.atomic import check_writable, new_folder
from minipeft.files.log import append_row, read_rows
from minipeft.hints import install
from minipeft.lab.framework.experiment import Config, Experiment, Row, no_preparation

Work = Callable[[Config, Path], Mapping[str, Any]]  # an experiment's run


class LabError(ValueError):
    """An experiment that is unknown, or a log that is no log; the message says what was expected."""


def key(config: Config) -> str:
    """Return a config as one text, the same for the same config."""
    return json.dumps(config, sort_keys=True)


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Return the versions that a row was made with."""
    import numpy as np

    import minipeft

    return {"minipeft": minipeft.__version__, "numpy": np.__version__, "python": platform.python_version()}


class Log:
    """Finished runs in a file, one JSON object a line: {"config", "result", "seconds", "versions"}.

    Raises FileError for a file that is not such a log. fresh: forget the runs in it.
    """

    def __init__(self, path: Path, fresh: bool = False):
        self.path = path
        rows = read_rows(path, "config", "result", "seconds")
        entries = [e for e in rows if isinstance(e["config"], dict) and isinstance(e["result"], dict)]
        if fresh:
            path.unlink(missing_ok=True)
        self.rows: dict[str, Row] = {} if fresh else {key(e["config"]): _row(e) for e in entries}

    def append(self, entry: Mapping[str, Any]) -> None:
        """Keep one finished run."""
        append_row(self.path, entry)
        self.rows[key(entry["config"])] = _row(entry)


def _row(entry: Mapping[str, Any]) -> Row:
    return {**entry["config"], **entry["result"], "seconds": entry["seconds"]}


def one_blas_thread() -> AbstractContextManager[Any]:
    """Give BLAS one thread inside the block: for small arrays more threads only wait for each other."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def perform(work: Work, config: Config, folder: str) -> dict[str, Any]:
    """Return the entry for the log of one run, made in this process."""
    start = time.perf_counter()
    with one_blas_thread():
        result = dict(work(config, Path(folder)))
    seconds = round(time.perf_counter() - start, 3)
    return {"config": config, "result": result, "seconds": seconds, "versions": versions()}


Results = Iterator[dict[str, Any]]


def local(work: Work, configs: Sequence[Config], folder: str, workers: int) -> Results:
    """Yield entries as they finish, ``workers`` processes at a time; one run after the other without joblib."""
    try:
        from joblib import Parallel, delayed
    except ModuleNotFoundError:
        workers = 1
    if min(workers, len(configs)) <= 1:
        yield from (perform(work, c, folder) for c in configs)
        return
    parallel = Parallel(n_jobs=min(workers, len(configs)), return_as="generator_unordered", batch_size=1)
    yield from parallel(delayed(perform)(work, c, folder) for c in configs)


def on_cluster(experiment: Experiment, configs: Sequence[Config], folder: str, address: str) -> Results:
    """Yield entries as they finish on the Dask cluster at ``address``; the runs of a dead worker are run again.

    The workers must have minipeft and see the folder. Raises LabError if there is no cluster.
    """
    try:
        distributed: Any = import_module("dask.distributed")
    except ModuleNotFoundError as error:
        raise LabError(f"--cluster needs Dask; {install('cluster')}") from error
    try:
        client = distributed.Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise LabError(f"no Dask scheduler answers at {address}: {error}") from error
    with client:
        futures = [
            client.submit(perform, experiment.run, c, folder, key=f"{experiment.name}-{key(c)}", retries=3)
            for c in configs
        ]
        for future in distributed.as_completed(futures):
            yield future.result()


def run(
    experiment: Experiment,
    mode: str,
    out: Path,
    workers: int = 1,
    cluster: str | None = None,
    fresh: bool = False,
    progress: bool = True,
    perform_all: Callable[..., Results] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Return every row of an experiment, in the order of its runs; those in the log of ``out`` are not run again.

    out: a folder; the log is ``out/NAME-MODE.jsonl``, what the runs share is in ``out/NAME-MODE-base``.
    perform_all: replaces the processes here (for tests).
    say: receives a line before the model that the runs share is pretrained.

    Raises FileError, before the first run, if the folder cannot be written.
    """
    from tqdm import tqdm

    log_path = out / f"{experiment.name}-{mode}.jsonl"
    base = (out / f"{experiment.name}-{mode}-base").resolve()
    check_writable(out)
    log = Log(log_path, fresh)
    if not base.is_dir():
        if experiment.prepare is not no_preparation:
            say(f"{experiment.name}: pretraining the base model, once for all runs")
        with new_folder(base) as part, one_blas_thread():
            experiment.prepare(mode, part)
    quiet = None if progress else True  # None: a bar only on a terminal
    while True:
        wanted = list({key(c): c for c in experiment.runs(mode, [log.rows[k] for k in sorted(log.rows)])}.values())
        missing = [c for c in wanted if key(c) not in log.rows]
        if not missing:
            return [log.rows[key(c)] for c in wanted]
        if perform_all is not None:
            results = perform_all(experiment.name, missing, str(base))
        elif cluster is not None:
            results = on_cluster(experiment, missing, str(base), cluster)
        else:
            results = local(experiment.run, missing, str(base), workers)
        total = len(wanted)
        with tqdm(total=total, initial=total - len(missing), desc=experiment.name, unit="run", disable=quiet) as bar:
            for entry in results:
                log.append(entry)
                bar.update(1)
