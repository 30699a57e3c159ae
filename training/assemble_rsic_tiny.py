"""Put what the training scripts made together as one model folder, in float16.

    python training/assemble_rsic_tiny.py --base runs/base/rsic-tiny --hsvlc runs/hsvlc/hsvlc --output my-rsic-tiny

Both pipelines load the result: `RSICDecoderPipeline.from_pretrained("my-rsic-tiny")`.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from rsic_diffusers import HSVLC, GuidedSelfRecurrentDDIMScheduler, RSICDecoderPipeline
from rsic_diffusers.schedulers.scheduling_guided_self_recurrent_ddim import adopt_noise_schedule


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="Folder made by train_tiny_base.py.")
    parser.add_argument("--hsvlc", type=Path, required=True, help="Folder made by train_hsvlc.py.")
    parser.add_argument("--output", required=True)
    parser.add_argument("--scheduler", nargs="*", default=[], metavar="NAME=VALUE", help="Sampling defaults.")
    return parser.parse_args()


def main():
    args = parse_args()
    defaults = {}
    for setting in args.scheduler:
        name, value = setting.split("=")
        defaults[name] = value if name == "guidance_target" else float(value) if "." in value else int(value)
    noise_schedule = json.loads((args.base / "scheduler" / "scheduler_config.json").read_text())
    pipeline = RSICDecoderPipeline(
        vae=AutoencoderTiny.from_pretrained(args.base / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(args.base / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(args.base / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(args.base / "unet"),
        hsvlc=HSVLC.from_pretrained(args.hsvlc),
        scheduler=adopt_noise_schedule(GuidedSelfRecurrentDDIMScheduler(**defaults), noise_schedule),
    )
    pipeline.to(dtype=torch.float16).save_pretrained(args.output)
    # diffusers notes the folder that each component came from, which a published model should not name, and for an
    # AutoencoderTiny an attribute that it then warns about at each loading.
    for path in Path(args.output).glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        if config.get("_class_name") == "AutoencoderTiny":
            config.pop("block_out_channels", None)
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    size = sum(path.stat().st_size for path in Path(args.output).rglob("*") if path.is_file())
    print(f"{args.output}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
