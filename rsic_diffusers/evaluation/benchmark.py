"""Seconds to encode and decode a photo, models loaded, and where the time goes.

python -m rsic_diffusers.evaluation.benchmark
"""

import argparse
import statistics
import time

import torch
from diffusers.utils import logging as diffusers_logging
from matplotlib.cbook import get_sample_data
from PIL import Image

from .. import RSICDecoderPipeline, RSICEncoderPipeline
from ..bitstream import Bitstream
from ..pipelines.latents import encode_image


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="rsic-tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--preset", help="of the decoder")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 384), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def timed(function, repeats):
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


def main():
    args = parse_args()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    dtype = getattr(torch, args.dtype)
    encoder = RSICEncoderPipeline.from_pretrained(args.model, dtype=dtype).to(args.device)
    decoder = RSICDecoderPipeline.from_pretrained(args.model, dtype=dtype).to(args.device)
    for pipeline in (encoder, decoder):
        pipeline.set_progress_bar_config(disable=True)
    image = Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    image = image.crop((0, 0, 512, 384)).resize(args.size)
    box = (args.size[0] // 4, args.size[1] // 4, args.size[0] * 3 // 4, args.size[1] * 3 // 4)

    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    size = "{} x {}".format(*args.size)
    print(f"{args.model}, {size}, {args.device} ({name}), {args.dtype}, torch {torch.__version__}")
    seconds, out = timed(lambda: encoder(image, caption="a woman in a navy uniform", box=box), args.repeats)
    print(f"encode               {seconds:8.3f} s  ({len(out.bitstream)} bytes)")

    file = Bitstream.from_bytes(out.bitstream)
    weight_map = torch.from_numpy(file.weight_map.values)[None, None]
    with torch.no_grad():
        tensor = encoder.image_processor.preprocess(image).to(args.device, dtype)
        part, latents = timed(lambda: encode_image(encoder.vae, tensor), args.repeats)
        print(f"  VAE encode         {part:8.3f} s")
        part, _ = timed(lambda: encoder.hsvlc.compress(latents, weight_map), args.repeats)
        print(f"  HSVLC compress     {part:8.3f} s")
        part, _ = timed(lambda: decoder.hsvlc.decompress(file.codes, weight_map, latents.shape[-2:]), args.repeats)
        print(f"HSVLC decompress     {part:8.3f} s")

    start = time.perf_counter()
    result = decoder(out.bitstream, preset=args.preset)
    seconds = time.perf_counter() - start
    evaluations = result.num_unet_evaluations
    print(
        f"decode               {seconds:8.3f} s  ({evaluations} UNet evaluations, {seconds / evaluations:.3f} s each)"
    )


if __name__ == "__main__":
    main()
