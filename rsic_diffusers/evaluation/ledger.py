"""What an evaluation has done, so that an interrupted one goes on."""

import json
from pathlib import Path


class Ledger:
    """Figures by photo, method and weight, each step of the work a line of JSON on the disk.

    An entry holds the settings it was made with; under others it starts anew, and so does one that holds an "error".

    Args:
        folder (`Path`): Holds `ledger-*.jsonl`, one for each process.
        process_index (`int`): Whose lines are written; all are read.
    """

    def __init__(self, folder: Path, process_index: int = 0):
        self.folder, self.path = folder, folder / f"ledger-{process_index}.jsonl"
        self.read()

    def read(self) -> None:
        self.entries = {}
        for path in sorted(self.folder.glob("ledger-*.jsonl")):
            for line in path.read_text("utf-8").splitlines():
                try:
                    self._take(json.loads(line))
                except json.JSONDecodeError:  # empty, or cut off where a process was killed
                    continue

    def _take(self, line: dict) -> None:
        key = line["photo"], line["method"], line["weight"]
        entry = self.entries.get(key)
        if entry is None or "error" in entry or entry["settings"] != line["settings"]:
            entry = self.entries[key] = {}
        entry.update(line)

    def get(self, photo: str, method: str, weight: float, settings: dict) -> dict:
        """The figures so far; {} if there are none with these settings, or there was an error."""
        entry = self.entries.get((photo, method, weight), {})
        is_good = entry.get("settings") == json.loads(json.dumps(settings)) and "error" not in entry
        return entry if is_good else {}

    def add(self, photo: str, method: str, weight: float, settings: dict, **figures) -> None:
        line = {"photo": photo, "method": method, "weight": weight, "settings": settings, **figures}
        text = json.dumps(line, ensure_ascii=False)
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("\n" + text)  # a line may have been cut off before this one
        self._take(json.loads(text))
