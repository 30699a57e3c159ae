"""Seconds to encode and decode a photo, models loaded, where the time goes, and the memory it takes.

    python -m rsic_diffusers.evaluation.experiments.benchmark
    python -m rsic_diffusers.evaluation.experiments.benchmark --preset default paper --batch_size 4
    python -m rsic_diffusers.evaluation.experiments.benchmark --random_sd15 --device cuda --dtype float16 \\
        --preset all --compile

Decoding is printed as a Markdown table with a row for each preset; "default" is what the model's own config asks for.
It is measured once, on CUDA or compiled after a decoding to warm up. "rest" is reading the file, adding up the pair of
predictions, cropping and the like.
"""

import argparse
import statistics
import time

import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image

from ... import HSVLC, GuidedSelfRecurrentDDIMScheduler, RSICDecoderPipeline, RSICEncoderPipeline
from ...bitstream import Bitstream
from ...example_photo import example_path
from ...pipelines.latents import encode_image
from ...pipelines.presets import PRESETS
from ..decoding_profile import DecodingProfile, profile_decoding
from ..random_stable_diffusion import LEVEL_ERROR, make_components


def parse_args(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="rsic-tiny")
    parser.add_argument(
        "--random_sd15",
        action="store_true",
        help="UNet, VAE and text encoder in the shapes of Stable Diffusion 1.5, and a codec, all with random weights; "
        "the tokenizer is the model's; without a preset the sampler runs with the defaults of its class",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--channels_last", action="store_true", help="memory format of UNet, VAE and HSVLC")
    parser.add_argument("--compile", action="store_true", help="torch.compile UNet and guided step")
    parser.add_argument("--preset", nargs="+", default=["default"], choices=["default", *PRESETS, "all"])
    parser.add_argument("--num_inference_steps", type=int, help="in place of every preset's, for a shorter run")
    parser.add_argument("--num_recurrence_steps", type=int, help="in place of every preset's, for a shorter run")
    parser.add_argument("--batch_size", type=int, default=1, help="files decoded together")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 384), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--refinement_steps", type=int, default=0, help="also time encoding with so many (0: do not)")
    parser.add_argument("--repeats", type=int, default=5, help="of what is measured outside decoding")
    args = parser.parse_args(arguments)
    if "all" in args.preset:
        args.preset = ["default", *PRESETS]
    return args


def load_pipelines(args) -> tuple[RSICEncoderPipeline, RSICDecoderPipeline]:
    dtype = getattr(torch, args.dtype)
    encoder = RSICEncoderPipeline.from_pretrained(args.model, dtype=dtype)
    decoder = RSICDecoderPipeline.from_pretrained(args.model, dtype=dtype)
    if args.random_sd15:
        components = make_components(dtype=dtype)
        scaling_factor = components["vae"].config.scaling_factor
        hsvlc = HSVLC(scaling_factor=scaling_factor, level_error=LEVEL_ERROR).to(dtype).eval()
        hsvlc.update()
        encoder = RSICEncoderPipeline(components["vae"], hsvlc, decoder.tokenizer)
        scheduler = GuidedSelfRecurrentDDIMScheduler()
        decoder = RSICDecoderPipeline(**components, hsvlc=hsvlc, tokenizer=decoder.tokenizer, scheduler=scheduler)
    for pipeline in (encoder, decoder):
        pipeline.to(args.device)
        pipeline.set_progress_bar_config(disable=True)
    if args.channels_last:
        for module in (decoder.unet, decoder.vae, decoder.hsvlc):
            module.to(memory_format=torch.channels_last)
    if args.compile:
        decoder.unet.forward = torch.compile(decoder.unet.forward, fullgraph=True)
        decoder.scheduler.compile(fullgraph=True)
    return encoder, decoder


def median_seconds(function, repeats):
    """Median seconds of `repeats` calls after one to warm up, and the last result."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def profile_table(profiles: dict[str, DecodingProfile]) -> str:
    first = next(iter(profiles.values()))
    watched = "guidance" in first.parts
    names = {} if watched else {"scheduler": "guidance + scheduler"}
    columns = ["preset", "UNet evaluations", "seconds", "ratio"]
    columns += [f"{names.get(name, name)}, s" for name in first.parts]
    columns += ["outside the UNet"] + ["guidance of a step"] * watched + ["peak memory, MiB"]
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    for preset, profile in profiles.items():
        cells = [preset, f"{profile.evaluations}", f"{profile.seconds:.2f}", f"{profile.seconds / first.seconds:.2f}"]
        cells += [f"{profile.parts[name]:.3f}" for name in first.parts] + [f"{100 * profile.outside_unet:.1f} %"]
        cells += [f"{100 * profile.guidance_of_steps:.1f} %"] if watched else []
        cells += [f"{profile.peak_memory:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments=None):
    args = parse_args(arguments)
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    encoder, decoder = load_pipelines(args)
    image = Image.open(example_path()).convert("RGB")
    image = image.crop((0, 0, 512, 384)).resize(args.size)
    box = (args.size[0] // 4, args.size[1] // 4, args.size[0] * 3 // 4, args.size[1] * 3 // 4)

    model = "Stable Diffusion 1.5 with random weights" if args.random_sd15 else args.model
    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    size = "{} x {}".format(*args.size)
    manner = ", channels last" * args.channels_last + ", compiled" * args.compile
    print(f"{model}, {size}, {args.device} ({name}), {args.dtype}{manner}, torch {torch.__version__}")

    def encode(**arguments):
        return encoder(image, caption="a woman in a navy uniform", box=box, max_side=None, **arguments)

    if args.refinement_steps:
        seconds, out = median_seconds(lambda: encode(refinement_steps=args.refinement_steps), args.repeats)
        name = f"encode, {args.refinement_steps} refinement steps"
        print(f"{name:27s}{seconds:8.3f} s  ({len(out.bitstream)} bytes)")
    seconds, out = median_seconds(encode, args.repeats)
    print(f"encode                     {seconds:8.3f} s  ({len(out.bitstream)} bytes)")

    file = Bitstream.from_bytes(out.bitstream)
    weight_map = torch.from_numpy(file.weight_map.values)[None, None]
    with torch.no_grad():
        tensor = encoder.image_processor.preprocess(image).to(args.device, getattr(torch, args.dtype))
        part, latents = median_seconds(lambda: encode_image(encoder.vae, tensor), args.repeats)
        print(f"  VAE encode               {part:8.3f} s")
        part, _ = median_seconds(lambda: encoder.hsvlc.compress(latents, weight_map), args.repeats)
        print(f"  HSVLC compress           {part:8.3f} s")

    print(f"decode, {args.batch_size} file(s) together:\n")
    profiles = {}
    for preset in args.preset:
        settings = {
            "preset": None if preset == "default" else preset,
            "num_inference_steps": args.num_inference_steps,
            "num_recurrence_steps": args.num_recurrence_steps,
        }
        files = [out.bitstream] * args.batch_size
        if args.compile or args.device.startswith("cuda"):
            decoder(files, **settings)
        profiles[preset] = profile_decoding(decoder, files, watch_guidance=not args.compile, **settings)
    print(profile_table(profiles))


if __name__ == "__main__":
    main()
