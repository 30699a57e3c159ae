"""Make a Hub repo of a trained codec over a base checkpoint (a thin repo), check that it loads, and push it.

    python training/publish.py --hsvlc runs/hsvlc/hsvlc --output rsic-sd15 --dry-run
    python training/publish.py --hsvlc runs/hsvlc/hsvlc --output rsic-sd15 --repo_id user/rsic-sd15

The repo holds the codec, the sampler's settings, model_index.json with the base's id, and a model card with what
training measured. `RSICDecoderPipeline.from_pretrained("user/rsic-sd15")` loads it; VAE, UNet and text encoder come
from the base's own repo.
"""

import argparse
import json
import shutil
from pathlib import Path

from diffusers import UNet2DConditionModel
from huggingface_hub import create_repo, upload_folder
from transformers import CLIPTextConfig

from rsic_diffusers import HSVLC, GuidedSelfRecurrentDDIMScheduler, RSICEncoderPipeline
from rsic_diffusers.hub import BASE_KEY
from rsic_diffusers.pipelines.compatibility import check_stable_diffusion_1


CONFIGS = Path(__file__).parent.parent / "hub_configs" / "rsic-sd15"


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hsvlc", type=Path, required=True, help="Folder made by train_hsvlc.py.")
    parser.add_argument(
        "--base", default="stable-diffusion-v1-5/stable-diffusion-v1-5", help="Hub id of the checkpoint it is for."
    )
    parser.add_argument("--output", type=Path, required=True, help="Folder for the repo; must not exist yet.")
    parser.add_argument("--repo_id", help="Where to push: user/name.")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--dry-run", action="store_true", help="Leave the repo in its folder.")
    args = parser.parse_args()
    if not (args.hsvlc / "config.json").exists():
        parser.error(f"{args.hsvlc} holds no codec; give the folder that train_hsvlc.py exported.")
    if args.output.exists():
        parser.error(f"{args.output} exists; give a new folder.")
    if not args.dry_run and not args.repo_id:
        parser.error("Give --repo_id user/name to push to, or --dry-run.")
    if not args.dry_run and Path(args.base).exists():
        parser.error(f"--base {args.base} is a folder of this machine; others need a Hub id.")
    return args


def main():
    args = parse_args()
    hsvlc = HSVLC.from_pretrained(args.hsvlc)
    hsvlc.require_tables()
    hsvlc.register_to_config(_name_or_path="")  # the folder it came from is nobody's business
    hsvlc.save_pretrained(args.output / "hsvlc")
    GuidedSelfRecurrentDDIMScheduler.from_pretrained(CONFIGS, subfolder="scheduler").save_pretrained(
        args.output / "scheduler"
    )
    index = json.loads((CONFIGS / "model_index.json").read_text())
    index[BASE_KEY] = str(Path(args.base).resolve()) if Path(args.base).is_dir() else args.base
    (args.output / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    card = (CONFIGS / "README.md").read_text().replace("stable-diffusion-v1-5/stable-diffusion-v1-5", args.base)
    card = card.replace("user/rsic-sd15", args.repo_id or "user/rsic-sd15")
    measured = args.hsvlc / "README.md"
    if measured.exists():
        card = (
            card.rstrip() + "\n\n" + measured.read_text().split("---\n", 2)[-1].strip().replace("# An", "## An") + "\n"
        )
    (args.output / "README.md").write_text(card)

    try:
        encoder = RSICEncoderPipeline.from_pretrained(args.output)
        # Of the decoder's part of the base the configs tell enough, without gigabytes.
        unet = UNet2DConditionModel.load_config(args.base, subfolder="unet")
        text_encoder = CLIPTextConfig.from_pretrained(args.base, subfolder="text_encoder")
        check_stable_diffusion_1(unet, text_encoder)
    except Exception:
        shutil.rmtree(args.output)  # nothing half-made
        raise
    print(f"{args.output} loads, with the VAE of {args.base}; codec {encoder.hsvlc.fingerprint.hex()}.")
    if not args.dry_run:
        create_repo(args.repo_id, private=args.private, exist_ok=True)
        print(upload_folder(repo_id=args.repo_id, folder_path=args.output, commit_message="HSVLC codec"))


if __name__ == "__main__":
    main()
