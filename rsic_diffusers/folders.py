"""Many files: a folder of photos to `.rsic` files, and a folder of those back to pictures.

Several processes share the work: those of one `accelerate launch` (on several GPUs) or torchrun with
ACCELERATE_USE_CPU=true (accelerate itself starts a single process on CPUs) each take a fixed part; processes that were
started one by one on the same folder leave to each other what the other is working on. A file that was made already
with the same settings is skipped, so that an interrupted run goes on. A file that fails is reported and does not stop
the others. Each process writes a report, a line of JSON for each file.
"""

import json
import logging
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from .files import PART_PREFIX, append_json_line, read_json_lines, refuse_broken_link, remove_leftovers


logger = logging.getLogger(__name__)


def share_of_work():
    """This process among those that were launched together (an `accelerate.Accelerator`); they wait long for each
    other."""
    from accelerate import Accelerator, InitProcessGroupKwargs  # takes a second

    return Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))])


def find_files(folder: Path, suffixes: Iterable[str], output: Path) -> list[Path]:
    """All files in a folder and those below it whose names end so, sorted.

    Left out are an `output` folder inside it, whose files were made here, folders that are links (one may lead in a
    circle) and links to nothing. A warning names the links.
    """
    suffixes = {suffix.lower() for suffix in suffixes}
    made_here = output.resolve() if folder.resolve() in output.resolve().parents else None
    found = []
    for walked, folders, names in os.walk(folder):
        parent = Path(walked)
        for name in sorted(folders):
            if (parent / name).is_symlink():
                logger.warning(f"{parent / name} is a link to a folder and was not searched; give that folder itself.")
        folders[:] = [name for name in folders if (parent / name).resolve() != made_here]
        for path in (parent / name for name in names):
            # Macs leave a "._photo.jpg" beside each photo on a camera's card; it is none.
            if path.suffix.lower() not in suffixes or path.name.startswith("._"):
                continue
            if path.is_file():
                found.append(path)
            elif path.is_symlink():
                logger.warning(f"{path} is a link to {os.readlink(path)}, which does not exist; it is left out.")
    return sorted(found)


def plan(folder: Path, output: Path, suffixes: Iterable[str], suffix: str) -> dict[Path, Path]:
    """Which file makes which: the same names with another suffix.

    Raises:
        ValueError: No such file in the folder, or two that would be written to one.
    """
    found = find_files(folder, suffixes, output)
    jobs = {path: (output / path.relative_to(folder)).with_suffix(suffix) for path in found}
    if not jobs:
        raise ValueError(f"{folder} holds no file whose name ends in one of {', '.join(sorted(suffixes))}.")
    sources = {}
    for source, target in jobs.items():
        if target in sources:
            raise ValueError(f"{sources[target]} and {source} would both become {target}; rename one.")
        sources[target] = source
    return jobs


def file_identity(path) -> list[int] | None:
    """Size and time of a file, for `settings_of`: what was made of another one under the same name is made again."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def run(
    jobs: dict[Path, Path],
    work: Callable,
    output: Path,
    title: str,
    group_of: Callable | None = None,
    batch_size: int = 1,
    settings_of: Callable[[Path], dict] | None = None,
    overwrite: bool = False,
    explain: Callable[[Exception], str] = str,
) -> dict[str, int]:
    """Do this process's share of the jobs.

    Args:
        jobs (`dict[Path, Path]`): Input and output.
        work (`Callable`): `work(inputs, outputs)` writes a batch and returns a dict of figures for each.
        output (`Path`): Folder of the report, `report.jsonl` (with the process's number if there are several).
        title (`str`): For the progress bar.
        group_of (`Callable`, *optional*): Only inputs for which it gives the same can be done in one batch.
        batch_size (`int`): Largest batch.
        settings_of (`Callable`, *optional*): All that decides how an input's output is made, as JSON can hold it.
            It is kept in the report; an output that was made with other settings is made again.
        overwrite (`bool`): Make again what is there, whatever it was made with.
        explain (`Callable`): Puts an error into words.

    Returns:
        `dict[str, int]`: How many were "done", "skipped", "failed" and, where it happened, "left to another process".
    """
    from tqdm import tqdm

    state = share_of_work()
    mine = sorted(jobs)[state.process_index :: state.num_processes]
    output.mkdir(parents=True, exist_ok=True)
    if state.is_main_process:
        remove_leftovers(output)
    report = _Report(output, None if state.num_processes == 1 else state.process_index)
    settings = {path: json.loads(json.dumps(settings_of(path))) if settings_of else None for path in mine}
    waiting = mine if overwrite else _to_do(mine, jobs, settings, report)
    counts = {"done": 0, "skipped": len(mine) - len(waiting), "failed": 0}
    before = {path: _status(jobs[path]) for path in waiting}

    def do(batch):
        start = time.perf_counter()
        try:
            for path in batch:
                refuse_broken_link(jobs[path])
            with _named_in_warnings(batch):
                results = work(batch, [jobs[path] for path in batch])
        except Exception as error:  # a file may fail in any way, and the others do not wait for it
            if len(batch) > 1:  # which file is at fault shows when each is done alone
                for path in batch:
                    do([path])
                return
            message = " ".join(explain(error).split()) or type(error).__name__
            report.write(batch[0], error=message)
            named = message if message.startswith(str(batch[0])) else f"{batch[0]}: {message}"
            tqdm.write(named, file=sys.stderr)
            counts["failed"] += 1
            return
        seconds = round((time.perf_counter() - start) / len(batch), 3)
        for path, figures in zip(batch, results, strict=True):
            made = {"output": report.name_of(jobs[path]), "settings": settings[path]}
            report.write(path, **made, **figures, seconds=seconds)
        counts["done"] += len(batch)

    with tqdm(total=len(waiting), desc=title, disable=not state.is_local_main_process) as progress:
        for batch in _batches(waiting, group_of, batch_size):
            with ExitStack() as locks:
                free = [path for path in batch if _claim(jobs[path], locks) and _status(jobs[path]) == before[path]]
                if free:
                    do(free)
            if len(free) < len(batch):
                others = counts.get("left to another process", 0)
                counts["left to another process"] = others + len(batch) - len(free)
            progress.update(len(batch))
    return counts


@contextmanager
def _named_in_warnings(paths: list[Path]):
    """What the package warns of begins with the names of the files that are worked on, where it does not name them."""
    names = ", ".join(str(path) for path in paths)

    def add_names(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if not any(path.name in message for path in paths):
            record.msg, record.args = f"{names}: {message}", ()
        return True

    handlers = logging.getLogger(__package__).handlers
    for handler in handlers:
        handler.addFilter(add_names)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(add_names)


class _Report:
    """What was made, and with which settings: all reports of a folder are read, this process's own is added to.

    Args:
        folder (`Path`): Of the outputs.
        process_index (`int`, *optional*): Among several that were launched together.
    """

    def __init__(self, folder: Path, process_index: int | None):
        self.folder = folder
        self.path = folder / ("report.jsonl" if process_index is None else f"report-{process_index}.jsonl")
        self.settings = {}
        for line in read_json_lines(folder.glob("report*.jsonl")):
            if line.get("settings") is not None:
                self.settings[line["output"]] = line["settings"]

    def name_of(self, target: Path) -> str:
        return target.relative_to(self.folder).as_posix()

    def write(self, path: Path, **figures) -> None:
        append_json_line(self.path, file=str(path), **figures)


def _to_do(paths: list[Path], jobs: dict[Path, Path], settings: dict, report: _Report) -> list[Path]:
    """The inputs whose outputs are not there or were made with other settings; says what is made again, and why."""
    missing, changed, unknown = [], [], []
    for path in paths:
        recorded = report.settings.get(report.name_of(jobs[path]))
        if _status(jobs[path]) is None:
            missing.append(path)
        elif settings[path] is None or recorded == settings[path]:
            continue
        elif recorded is None:
            unknown.append(path)
        else:
            changed.append(path)
    if changed:
        difference = _difference(report.settings[report.name_of(jobs[changed[0]])], settings[changed[0]])
        logger.warning(
            f"{len(changed)} of the files in {report.folder} were made with other settings ({difference}) and are "
            "made again."
        )
    if unknown:
        logger.warning(
            f"{len(unknown)} of the files in {report.folder} are in no report, {jobs[unknown[0]].name} for one, and "
            "are left as they are; --overwrite makes them again."
        )
    return sorted(missing + changed)


def _difference(before: dict, now: dict) -> str:
    """The first few settings that differ, in words."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    told = [f"{name} was {json.dumps(before.get(name))}, is {json.dumps(now.get(name))}" for name in names[:2]]
    return "; ".join(told + ["..."] * (len(names) > 2))


def _status(path: Path):
    """What changes when a file is written anew; None without one."""
    try:
        status = path.stat()
    except OSError:  # also a name that is too long; the work will say so
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _claim(target: Path, locks: ExitStack) -> bool:
    """Hold the work on `target` until `locks` is closed, or return False: another process works on it.

    The system frees a killed process's lock, so none is ever left behind.
    """
    from filelock import FileLock, Timeout

    path = target.parent / f"{PART_PREFIX}{zlib.crc32(os.fsencode(target.name)):08x}.lock"
    lock = FileLock(path, blocking=False)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        return False
    except (OSError, NotImplementedError):  # a folder that cannot be made, which the work will say; or no locks here
        return True
    locks.callback(_remove, path)
    locks.callback(lock.release)  # goes first: the last callback is the first that is called
    return True


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _batches(paths: list[Path], group_of: Callable | None, batch_size: int):
    """Lists of at most `batch_size` paths of one group, in the order of their first."""
    groups = {}
    for path in paths:
        try:
            group = group_of(path) if group_of else None
        except Exception:
            group = path  # alone; its work will say what is wrong
        groups.setdefault(group, []).append(path)
    for members in groups.values():
        for i in range(0, len(members), batch_size):
            yield members[i : i + batch_size]
