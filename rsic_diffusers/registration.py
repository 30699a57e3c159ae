"""Makes diffusers' loader know this package, whichever of the two is imported first.

`DiffusionPipeline.from_pretrained` looks for the class that a model_index.json names among the attributes of
`diffusers`, and takes components only from the libraries in its table `LOADABLE_CLASSES`. Importing diffusers takes
seconds, so this package leaves that to whoever needs it and only waits for it.
"""

import sys
import threading
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from types import ModuleType


PIPELINES = ("RSICEncoderPipeline", "RSICDecoderPipeline")


def add_pipelines(diffusers: ModuleType) -> None:
    """`diffusers.RSICDecoderPipeline` and its counterpart, imported when they are first asked for."""

    def __getattr__(name):
        if name not in PIPELINES:
            raise AttributeError(f"module {diffusers.__name__} has no attribute {name}")
        return getattr(sys.modules[__package__], name)

    diffusers.__dict__["__getattr__"] = __getattr__


def add_library(pipeline_loading_utils: ModuleType) -> None:
    """Lets the loader and `save_pretrained` name our classes as ["rsic_diffusers", "HSVLC"]."""
    pipeline_loading_utils.LOADABLE_CLASSES.setdefault(__package__, {})


ACTIONS = {"diffusers": add_pipelines, "diffusers.pipelines.pipeline_loading_utils": add_library}


class AfterImport(MetaPathFinder):
    """Calls an action with each of some modules when Python has imported it.

    A module may be looked for without being imported (`importlib.util.find_spec`), and its import may fail: the action
    waits until one succeeds.

    Args:
        actions (`dict[str, Callable]`): Functions of a module, by the module's name.
    """

    def __init__(self, actions: dict[str, Callable[[ModuleType], None]]):
        self.actions = actions
        self.asking = threading.local()  # .name: what this thread is asking the other finders for

    def find_spec(self, fullname, path=None, target=None):
        outer = getattr(self.asking, "name", None)
        if fullname not in self.actions or fullname == outer:
            return None
        self.asking.name = fullname
        try:
            spec = find_spec(fullname)
        finally:
            self.asking.name = outer
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_act(module):
                execute(module)
                action = self.actions.pop(fullname, None)
                if action is not None:
                    action(sys.modules.get(fullname, module))  # diffusers puts another object in its place

            spec.loader.exec_module = execute_and_act
        return spec


def register() -> None:
    """Register now where diffusers is imported, otherwise as soon as it is."""
    waiting = {}
    for name, action in ACTIONS.items():
        if name in sys.modules:
            action(sys.modules[name])
        else:
            waiting[name] = action
    if waiting:
        sys.meta_path.insert(0, AfterImport(waiting))
