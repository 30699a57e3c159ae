"""Device, pipeline and noise as the command line asks for them; torch is imported only here, when it is needed."""

import sys

from .errors import as_sentence


def find_device(args):
    """The device asked for, refused before anything is loaded if it cannot be used."""
    import torch
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    name = args.device
    if name == "cpu" and args.dtype != "float32" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        # An x86 processor before AVX-512: 16 times slower and more, measured on convolutions in bfloat16.
        print(f"This CPU computes {args.dtype} in software, many times slower than float32.", file=sys.stderr)
    if name != "cpu":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"The device {name!r} cannot be used here ({as_sentence(error)})") from None
    if name == "cuda":
        from ..folders import share_of_work

        return share_of_work().device  # under `accelerate launch`, this process's own
    return torch.device(name)


def load_pipeline(class_name: str, args):
    print(f"Loading {args.model} ...", file=sys.stderr)
    import torch

    import rsic_diffusers

    device = find_device(args)
    components = {}
    if getattr(args, "captioner", None) and args.caption is None:  # else it would not be asked
        from ..description.captioners import Captioner

        components["captioner"] = Captioner.from_pretrained(args.captioner, getattr(torch, args.dtype), device)
    if getattr(args, "referring_model", None):
        from ..referring.heat_maps import load_referring_model

        components["referring_model"] = load_referring_model(args.referring_model, device)
    pipeline = getattr(rsic_diffusers, class_name).from_pretrained(
        args.model, dtype=getattr(torch, args.dtype), **components
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def make_generator(seed):
    if seed is None:
        return None
    import torch

    return torch.Generator("cpu").manual_seed(seed)
