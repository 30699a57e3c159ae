"""Train all of rsic-tiny by one command: VAE, its adversarial stage, base, codec, and the repo that holds them.

    python training/train_tiny.py --train_data_dir photos --validation_dir others --output_dir runs/tiny \\
        --vae="--max_train_steps 5000" --base="--max_train_steps 20000 --train_data_dir photos more_photos"

Each stage is a script of this folder, in a process of its own. The quoted options are the script's (its `--help`
lists them) and override those that this command gives. Started again, the same command skips the stages that are
finished and goes on with the interrupted one from its last checkpoint. The end is the folder `<output_dir>/rsic-tiny`,
which both pipelines load.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rsic_diffusers.bitstream import DEFAULT_MAX_SIDE
from rsic_diffusers.files import write_file


# Chosen for rsic-tiny by docs/RESULTS.md.
VAE = ("--equivariance", 0.35)
CODEC = ("--profile", "smooth", "--scale_dropout", 0.1, "--code_channels", 32, 24, 16, 16)
CODEC += ("--hidden_channels", 64, 96, 192, 192, "--prior_channels", 96)
SAMPLER = ("num_inference_steps=8", "guidance_scale=1.0", "referring_scale=0.0", "start_noise_factors=[80, 1]")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_data_dir", nargs="+", required=True, help="Folders of photos, with labels.tsv.")
    parser.add_argument("--validation_dir", required=True, help="Photos that are measured, never trained on.")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--mixed_precision", choices=["no", "fp16", "bf16"], help="Of all stages.")
    options = {"default": "", "metavar": "OPTIONS"}
    parser.add_argument("--vae", **options, help="Of train_tiny_vae.py, in quotes, after =.")
    parser.add_argument("--adversarial", **options, help="Of train_tiny_vae.py with a discriminator, after --vae's.")
    parser.add_argument("--base", **options, help="Of train_tiny_base.py, likewise.")
    parser.add_argument("--hsvlc", **options, help="Of train_hsvlc.py, likewise.")
    parser.add_argument("--no_adversarial", action="store_true", help="Leave the adversarial stage out.")
    return parser.parse_args()


@dataclass(frozen=True)
class Stage:
    """One script to run.

    Args:
        name: Its folder below the output folder.
        command: Script and arguments.
        result: What it must leave behind.
    """

    name: str
    command: tuple[str, ...]
    result: Path


def list_stages(args) -> list[Stage]:
    """The stages in their order, each with the results of those before it."""
    photos = ("--train_data_dir", *args.train_data_dir)
    measured = ("--validation_dir", args.validation_dir)
    precision = ("--mixed_precision", args.mixed_precision) if args.mixed_precision else ()
    stages: list[Stage] = []

    def add(name, script, result, *arguments, options):
        folder = args.output_dir / name
        trained = ("--output_dir", folder, "--resume_from_checkpoint", "latest", *precision)
        command = (script, *trained, *arguments, *shlex.split(options))
        stages.append(Stage(name, tuple(map(str, command)), folder / result))
        return stages[-1].result

    vae = add("vae", "train_tiny_vae.py", "vae", *photos, *measured, *VAE, options=args.vae)
    if not args.no_adversarial:
        # After the first stage's own options, whose --pretrained_vae is not this one's. The latents are settled.
        shared = (*photos, *measured, *shlex.split(args.vae))
        adversarial = ("--pretrained_vae", vae, "--freeze_encoder", "--equivariance", 0, "--adversarial_weight", 0.5)
        vae = add("adversarial", "train_tiny_vae.py", "vae", *shared, *adversarial, options=args.adversarial)
    base = add("base", "train_tiny_base.py", "rsic-tiny", *photos, "--vae", vae, options=args.base)
    model = ("--pretrained_model_name_or_path", base)
    hsvlc = add("hsvlc", "train_hsvlc.py", "hsvlc", *photos, *measured, *model, *CODEC, options=args.hsvlc)
    repo = args.output_dir / "rsic-tiny"
    publish = ("publish.py", "--full", "--base", base, "--hsvlc", hsvlc, "--output", repo, "--dry_run")
    publish += ("--max_side", DEFAULT_MAX_SIDE, "--scheduler", *SAMPLER)
    stages.append(Stage("rsic-tiny", tuple(map(str, publish)), repo))
    return stages


def main():
    args = parse_args()
    record = args.output_dir / "finished.json"
    finished = json.loads(record.read_text()) if record.exists() else {}
    for stage in list_stages(args):
        if stage.name in finished:
            if finished[stage.name] != list(stage.command):
                raise SystemExit(
                    f"The stage {stage.name} in {args.output_dir} was run with other options: "
                    f"{shlex.join(finished[stage.name])}. Repeat them, or give another --output_dir."
                )
            print(f"{stage.name}: finished before, {stage.result}.", flush=True)
            continue
        print(f"{stage.name}: python {shlex.join(stage.command)}", flush=True)
        if stage.command[0] == "publish.py" and stage.result.exists():
            shutil.rmtree(stage.result)  # left by an interrupted run; publish.py makes a new folder
        script = Path(__file__).with_name(stage.command[0])
        code = subprocess.run([sys.executable, str(script), *stage.command[1:]]).returncode
        if code or not stage.result.exists():
            raise SystemExit(f"The stage {stage.name} failed (exit status {code}); the same command goes on from it.")
        finished[stage.name] = list(stage.command)
        write_file(record, (json.dumps(finished, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
