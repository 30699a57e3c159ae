"""What a program may have set in torch, and what loading, encoding and decoding need."""

import copy
import os
import threading
from contextlib import ExitStack, contextmanager

import torch
from diffusers.utils import logging


logger = logging.get_logger(__name__)

_loading = threading.RLock()
_process = os.getpid()


@contextmanager
def own_torch_state():
    """Run under torch's usual state, whatever the program has set around: a context manager and a decorator.

    - `torch.inference_mode()` is left, since the guidance and the refinement take gradients through tensors that are
      made inside.
    - With `torch.set_default_device("meta")`, or a device that the pipeline is not on, tensors made without a device
      lie on the CPU all the same.
    - In a child process that was forked, torch works in one thread. OpenMP's threads do not survive a fork, and the
      child would wait for them for ever.

    Autocast stays as it is.
    """
    _use_one_thread_after_fork()
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def loading_alone():
    """Let one thread of this process load at a time: a context manager and a decorator.

    While a model is loaded, diffusers and transformers have torch make modules without data, on the device "meta", for
    all threads. Of two that load at once, the second would leave that behind for all that is made later.
    """
    with _loading:
        yield


def with_gradients(model: torch.nn.Module) -> torch.nn.Module:
    """The model, or a copy of one that was loaded under `torch.inference_mode()`: no gradient goes through the
    parameters of such a model, not even towards its inputs."""
    if not any(parameter.is_inference() for parameter in model.parameters()):
        return model
    with torch.inference_mode(False):
        return copy.deepcopy(model)


def _use_one_thread_after_fork() -> None:
    global _process
    if os.getpid() != _process:
        _process = os.getpid()
        torch.set_num_threads(1)
        logger.info("This process was forked, so torch works in one thread; start it by spawn to use more.")
