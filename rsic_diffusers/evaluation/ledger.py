"""What an evaluation has done, so that an interrupted one goes on."""

import json
from pathlib import Path

from ..files import append_json_line, read_json_lines


class Ledger:
    """Figures by photo, method and weight, each step of the work a line of JSON on the disk.

    An entry holds the settings it was made with; under others it starts anew, and so does one that holds an "error".

    Args:
        folder (`Path`): Holds `ledger-*.jsonl`, one for each process.
        process_index (`int`): Whose lines are written; all are read, in the order of their times.
    """

    def __init__(self, folder: Path, process_index: int = 0):
        self.folder, self.path = folder, folder / f"ledger-{process_index}.jsonl"
        self.read()

    def read(self) -> None:
        self.entries = {}
        for line in read_json_lines(self.folder.glob("ledger-*.jsonl")):
            self._take(line)

    def _take(self, line: dict) -> None:
        key = line["photo"], line["method"], line["weight"]
        entry = self.entries.get(key)
        if entry is None or "error" in entry or entry["settings"] != line["settings"]:
            entry = self.entries[key] = {}
        entry.update(line)

    def get(self, photo: str, method: str, weight: float, settings: dict | None = None) -> dict:
        """The figures so far; {} if there are none with these settings (None: any), or there was an error."""
        entry = self.entries.get((photo, method, weight), {"error": "was not made"})
        if "error" in entry or (settings is not None and entry["settings"] != json.loads(json.dumps(settings))):
            return {}
        return entry

    def add(self, photo: str, method: str, weight: float, settings: dict, **figures) -> None:
        line = {"photo": photo, "method": method, "weight": weight, "settings": settings, **figures}
        self.folder.mkdir(parents=True, exist_ok=True)
        append_json_line(self.path, **line)
        self._take(json.loads(json.dumps(line)))  # as it will be read
