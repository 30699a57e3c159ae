"""Many files: a folder of photos to `.rsic` files, and a folder of those back to pictures.

Under `accelerate launch` (on several GPUs) or torchrun with ACCELERATE_USE_CPU=true (accelerate itself starts a single
process on CPUs) each process takes its share. What is there already is skipped, so that an interrupted run
goes on; a file that fails is reported and does not stop the others. Each process writes a report, a line of JSON for
each file.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator, InitProcessGroupKwargs
from tqdm import tqdm


def share_of_work() -> Accelerator:
    """This process among those that were launched together; they wait long for each other."""
    return Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=7))])


def find_files(folder: Path, suffixes: Iterable[str], output: Path) -> list[Path]:
    """All files in a folder and those below it whose names end so, sorted; what is below `output` was made here."""
    suffixes = {suffix.lower() for suffix in suffixes}
    made_here = output.resolve() if output.resolve() != folder.resolve() else None
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes and path.is_file() and made_here not in path.resolve().parents
    )


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


def run(jobs: dict[Path, Path], work: Callable, output: Path, title: str, group_of=None, batch_size: int = 1) -> dict:
    """Do this process's share of the jobs.

    Args:
        jobs (`dict[Path, Path]`): Input and output.
        work (`Callable`): `work(inputs, outputs)` writes a batch and returns a dict of figures for each.
        output (`Path`): Folder of the report, `report.jsonl` (with the process's number if there are several).
        title (`str`): For the progress bar.
        group_of (`Callable`, *optional*): Only inputs for which it gives the same can be done in one batch.
        batch_size (`int`): Largest batch.

    Returns:
        `dict[str, int]`: How many were "done", "skipped" and "failed".
    """
    state = share_of_work()
    mine = sorted(jobs)[state.process_index :: state.num_processes]
    waiting = [path for path in mine if not jobs[path].exists()]
    counts = {"done": 0, "skipped": len(mine) - len(waiting), "failed": 0}
    output.mkdir(parents=True, exist_ok=True)
    name = "report.jsonl" if state.num_processes == 1 else f"report-{state.process_index}.jsonl"
    with (
        open(output / name, "a", encoding="utf-8") as report,
        tqdm(total=len(waiting), desc=title, disable=not state.is_local_main_process) as progress,
    ):

        def write(path, **figures):
            report.write(json.dumps({"file": str(path), **figures}, ensure_ascii=False) + "\n")
            report.flush()

        def do(batch):
            start = time.perf_counter()
            for path in batch:
                jobs[path].parent.mkdir(parents=True, exist_ok=True)
            try:
                results = work(batch, [jobs[path] for path in batch])
            except Exception as error:  # a file may fail in any way, and the others do not wait for it
                if len(batch) > 1:  # whose fault it is shows one by one
                    for path in batch:
                        do([path])
                    return
                message = " ".join(f"{error}".split()) or type(error).__name__
                write(batch[0], error=message)
                tqdm.write(f"{batch[0]}: {message}", file=sys.stderr)
                counts["failed"] += 1
            else:
                seconds = (time.perf_counter() - start) / len(batch)
                for path, figures in zip(batch, results):
                    write(path, output=str(jobs[path]), **figures, seconds=round(seconds, 3))
                counts["done"] += len(batch)
            progress.update(len(batch))

        for batch in _batches(waiting, group_of, batch_size):
            do(batch)
    return counts


def _batches(paths, group_of, batch_size):
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
