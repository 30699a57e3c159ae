"""How much memory a piece of work took at its peak."""

import threading

import psutil
import torch


class PeakMemory:
    """Measures the block it stands around: `with PeakMemory("cpu") as memory: ...; memory.mebibytes`.

    On CUDA what torch had allocated at most; on other devices the process's resident memory, looked at every 10 ms.
    """

    def __init__(self, device: str | torch.device):
        self.is_cuda = torch.device(device).type == "cuda"

    def __enter__(self):
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            return self
        self.bytes, self.ended = 0, threading.Event()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()
        return self

    def _watch(self):
        process = psutil.Process()
        while True:
            self.bytes = max(self.bytes, process.memory_info().rss)
            if self.ended.wait(0.01):
                return

    def __exit__(self, *error):
        if self.is_cuda:
            self.bytes = torch.cuda.max_memory_allocated()
            return
        self.ended.set()
        self.watcher.join()

    @property
    def mebibytes(self) -> float:
        return self.bytes / 2**20
