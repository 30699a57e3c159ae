"""The long fuzz run.

    cd tests && python -X faulthandler -m fuzz --parses 1000000 --decodes 10000

Every case has its own seed, which is printed when it fails: `--seed SEED --parses 1` runs that case alone. With
faulthandler a crash of compiled code ends in a traceback of Python instead of a bare "Segmentation fault". Under
valgrind (`PYTHONMALLOC=malloc valgrind --error-exitcode=1 python -m fuzz --parses 0 --decodes 50`) reads
outside of memory that happen to hit mapped pages are seen too.
"""

import argparse
import faulthandler
import random
import time

from rsic_diffusers import HSVLC

from .checks import GOLDEN_CODEC, StreamChecker, check_parse


def run(check, number: int, first_seed: int, what: str) -> None:
    start, sound = time.perf_counter(), 0
    for seed in range(first_seed, first_seed + number):
        try:
            sound += check(random.Random(seed))
        except BaseException:
            print(f"{what} case failed with --seed {seed}", flush=True)
            raise
        if (seed + 1 - first_seed) % 50_000 == 0:
            print(f"{what}: {seed + 1 - first_seed} done, {sound} sound", flush=True)
    print(f"{what}: {number} cases in {time.perf_counter() - start:.0f} s, {sound} of them sound files, no failure")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parses", type=int, default=1_000_000)
    parser.add_argument("--decodes", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    args = parser.parse_args()
    faulthandler.enable()
    run(check_parse, args.parses, args.seed, "parse")
    if args.decodes:
        run(StreamChecker(HSVLC.from_pretrained(GOLDEN_CODEC)).check, args.decodes, args.seed, "decode")


if __name__ == "__main__":
    main()
