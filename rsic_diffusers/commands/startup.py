"""A quick start for the program `rsic`: what diffusers imports, and encoding a photo never calls, stays out.

The first pipeline class that is imported from diffusers brings along all of its transformer models, every optional
package that it finds, and torch's compiler; together that takes longer than to encode a photo. Only the program uses
this, in a process of its own; a Python process that imports this package gets diffusers as it is. Each stand-in here
gives way to the real module as soon as anything else of it is asked for, so that another version of diffusers makes
the start slower and nothing worse.
"""

import importlib
import importlib.metadata
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, SimpleNamespace


# Packages of diffusers that import all of their modules at once, of which encoding needs a few.
EAGER_PACKAGES = ("diffusers.models.transformers", "diffusers.models.autoencoders", "diffusers.models.unets")
# Optional packages that diffusers imports when it finds them, for features that encoding does not have.
OPTIONAL_PACKAGES = ("peft", "transformers", "scipy", "torchao", "bitsandbytes", "gguf", "optimum_quanto")
# The one module of transformers that diffusers imports though `OPTIONAL_PACKAGES` says that there is no transformers.
TRANSFORMERS_QUANTIZATION = "transformers.utils.quantization_config"
COMPILER = "torch._dynamo"


def leave_out_unused_imports() -> None:
    """Prepare this process for encoding by VAE and HSVLC alone; too late once diffusers' pipelines are imported."""
    if "diffusers.pipelines.pipeline_utils" in sys.modules:
        return
    sys.meta_path.insert(0, _StandInFinder())
    if COMPILER not in sys.modules:
        import torch

        spec = PathFinder.find_spec(COMPILER, torch.__path__)
        if spec is not None:
            sys.modules[COMPILER] = _Compiler(spec)
    diffusers, import_utils = _import_diffusers()
    # The loader would look for the decoder, which the model's index names, and import it (see registration.py).
    vars(diffusers).pop("__getattr__", None)
    for name in OPTIONAL_PACKAGES:
        if hasattr(import_utils, f"_{name}_available"):
            setattr(import_utils, f"_{name}_available", False)
    if TRANSFORMERS_QUANTIZATION not in sys.modules:
        sys.modules[TRANSFORMERS_QUANTIZATION] = None  # importing it raises ImportError, which diffusers expects
        try:
            importlib.import_module("diffusers.quantizers")
        finally:
            del sys.modules[TRANSFORMERS_QUANTIZATION]


def _import_diffusers() -> tuple[ModuleType, ModuleType]:
    """Import `diffusers` and its `import_utils` without the list of all files of all installed packages.

    diffusers makes that list to find packages whose distribution has another name; encoding needs none of them.
    """
    list_packages = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = dict
    try:
        return importlib.import_module("diffusers"), importlib.import_module("diffusers.utils.import_utils")
    finally:
        importlib.metadata.packages_distributions = list_packages


class _LazyPackage(ModuleType):
    """A package whose own code runs when an attribute is asked for; its modules can be imported before that."""

    def __getattr__(self, name):
        if name.startswith("__") or type(self) is ModuleType:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


class _LazyLoader:
    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _LazyPackage(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self.loader


class _Compiler(ModuleType):
    """Stands for torch's compiler with the two decorators that diffusers marks functions with, and with the class of
    compiled modules, of which there are none here."""

    eval_frame = SimpleNamespace(OptimizedModule=type("OptimizedModule", (), {}))

    def __init__(self, spec: ModuleSpec):
        super().__init__(spec.name)
        self.__spec__ = spec
        self.__path__ = list(spec.submodule_search_locations)

    @staticmethod
    def allow_in_graph(function):
        return function

    @staticmethod
    def disable(function=None, *args, **kwargs):
        return (lambda decorated: decorated) if function is None else function

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self.replace(), name)

    def replace(self) -> ModuleType:
        """Import the real module in place of this one."""
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
        return importlib.import_module(COMPILER)


class _StandInFinder:
    """Puts the lazy packages in place, and the real compiler where one of its modules is imported."""

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        if name in EAGER_PACKAGES:
            spec = PathFinder.find_spec(name, path)
            if spec is not None:
                spec.loader = _LazyLoader(spec.loader)
            return spec
        if name.startswith(f"{COMPILER}."):
            compiler = sys.modules.get(COMPILER)
            if isinstance(compiler, _Compiler):
                compiler.replace()
        return None
