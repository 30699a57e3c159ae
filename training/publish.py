"""Make a Hub repo of a trained codec, check that it loads, and push it.

    python training/publish.py --hsvlc runs/hsvlc/hsvlc --output rsic-sd15 --dry_run
    python training/publish.py --hsvlc runs/hsvlc/hsvlc --output rsic-sd15 --repo_id user/rsic-sd15

The repo is thin: it holds the codec, the sampler's settings, model_index.json with the base's id, and a model card
with what training measured. `RSICDecoderPipeline.from_pretrained("user/rsic-sd15")` loads it; VAE, UNet and text
encoder come from the base's own repo. With `--full` they are in the repo too, in float16: for a base of your own.
"""

import argparse
from pathlib import Path

from repo_assembly import BASE, assemble_full_repo, assemble_thin_repo, make_scheduler, push_repo, push_space

from rsic_diffusers.bitstream import SIDE_STEP


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hsvlc", type=Path, required=True, help="Folder made by train_hsvlc.py.")
    parser.add_argument(
        "--base", default=BASE, help="Hub id of the checkpoint it is for; with --full also a folder or a single file."
    )
    parser.add_argument("--full", action="store_true", help="Put the base's weights into the repo, in float16.")
    parser.add_argument("--variant", help="Of the base's weights: fp16.")
    parser.add_argument("--output", type=Path, required=True, help="Folder for the repo; must not exist yet.")
    parser.add_argument(
        "--scheduler",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="Defaults of the sampler, e.g. num_inference_steps=20 strength=1.0 guidance_target=clean.",
    )
    parser.add_argument(
        "--max_side",
        type=int,
        help="Photos with a longer side, in pixels, are coded smaller by default. Default: "
        "the side that the base was trained on.",
    )
    parser.add_argument("--repo_id", help="Where to push: user/name.")
    parser.add_argument("--space", help="Also push the page of hub_configs/space for this repo: user/name of a Space.")
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--dry_run", action="store_true", help="Leave the repo in its folder.")
    args = parser.parse_args()
    if not (args.hsvlc / "config.json").exists():
        parser.error(f"{args.hsvlc} holds no codec; give the folder that train_hsvlc.py exported.")
    if args.output.exists():
        parser.error(
            f"{args.output} exists; give a new folder. (A repo that was made there is pushed by "
            f"`hf upload {args.repo_id or 'user/name'} {args.output}`.)"
        )
    if not args.dry_run and not args.repo_id:
        parser.error("Give --repo_id user/name to push to, or --dry_run.")
    if args.dry_run and (args.space or args.private):
        parser.error("--space and --private are about pushing, and --dry_run does not push.")
    if args.max_side is not None and args.max_side < SIDE_STEP:
        parser.error(f"--max_side must be at least {SIDE_STEP} pixels, got {args.max_side}.")
    if not args.dry_run and not args.full and Path(args.base).exists():
        parser.error(f"--base {args.base} is a folder of this machine; others need a Hub id, or --full.")
    try:
        make_scheduler(args.scheduler)
    except ValueError as error:
        parser.error(str(error))
    return args


def main():
    args = parse_args()
    assemble = assemble_full_repo if args.full else assemble_thin_repo
    fingerprint = assemble(
        args.output, args.hsvlc, args.base, args.scheduler, args.repo_id, args.variant, args.max_side
    )
    size = sum(path.stat().st_size for path in args.output.rglob("*") if path.is_file())
    print(f"{args.output} loads, {size / 1e6:.1f} MB, base {args.base}; codec {fingerprint}.")
    if not args.dry_run:
        print(push_repo(args.output, args.repo_id, args.private))
        if args.space:
            print("The Space installs rsic-diffusers from PyPI; see its README for what to do before it is there.")
            print(push_space(args.space, args.repo_id, args.private))


if __name__ == "__main__":
    main()
