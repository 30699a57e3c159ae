"""The benchmark, and the profile of a decoding."""

import copy
import time

import pytest
import torch

from rsic_diffusers.evaluation.decoding_profile import Stopwatch, profile_decoding
from rsic_diffusers.evaluation.experiments import benchmark


STRENGTH = {"num_inference_steps": 4, "num_recurrence_steps": 2, "strength": 1.0, "guidance_target": "clean"}


def test_a_call_inside_a_call_is_counted_once(monkeypatch):
    clock = [100.0]
    watch = Stopwatch(torch.device("cpu"))
    monkeypatch.setattr(watch, "now", lambda: clock[0])

    def work(seconds):
        clock[0] += seconds

    inner = watch.timed("inner", lambda: work(5))

    def outer():
        inner()
        work(2)
        inner()

    watch.timed("outer", outer)()
    assert watch.seconds == {"inner": 10, "outer": 2}


def test_a_profile_adds_up_and_leaves_nothing_behind(decoder, files):
    start, step = time.perf_counter(), type(decoder.scheduler).step
    profile = profile_decoding(decoder, files, **STRENGTH)
    whole = time.perf_counter() - start
    assert profile.evaluations > 0 and min(profile.parts.values()) > 0
    assert profile.seconds <= whole
    assert profile.parts["UNet"] / profile.seconds == pytest.approx(1 - profile.outside_unet)
    assert "forward" not in vars(decoder.unet) and type(decoder.scheduler).step is step
    # The targets with a closed form call the codec and no gradient; so does the default, and that is guidance too.
    closed = profile_decoding(decoder, files, **{**STRENGTH, "guidance_target": "posterior"})
    assert closed.evaluations == profile.evaluations and closed.parts["guidance"] > 0


def test_a_compiled_step_is_profiled_whole(decoder, files, monkeypatch):
    monkeypatch.setattr(decoder, "scheduler", copy.deepcopy(decoder.scheduler))
    decoder.scheduler.compile(fullgraph=True, backend="eager")
    profile = profile_decoding(decoder, files, watch_guidance=False, **STRENGTH)
    assert "guidance" not in profile.parts and min(profile.parts.values()) > 0
    table = benchmark.profile_table({"compiled": profile})
    assert "guidance + scheduler, s" in table and "guidance of a step" not in table


def test_the_benchmark_prints_a_row_for_each_preset(capsys):
    size = ["--size", "128", "128", "--repeats", "1", "--num_inference_steps", "4", "--num_recurrence_steps", "2"]
    benchmark.main(["--preset", "default", "paper", "--channels_last", "--refinement_steps", "2", *size])
    printed = capsys.readouterr().out
    assert "encode, 2 refinement steps" in printed and "VAE encode" in printed and "HSVLC compress" in printed
    header, _, *rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("|")]
    default, paper = (dict(zip(header, row, strict=True)) for row in rows)
    assert (default["preset"], paper["preset"]) == ("default", "paper")
    assert paper["UNet evaluations"] == str(4 + 4 * 2) and float(default["ratio"]) == 1
    seconds = {name: float(value) for name, value in paper.items() if name.endswith(", s")}
    assert float(default["guidance, s"]) > 0 and seconds["guidance, s"] > 0
    assert sum(seconds.values()) == pytest.approx(float(paper["seconds"]), abs=0.02)
    share = 100 * (1 - seconds["UNet, s"] / sum(seconds.values()))
    assert share == pytest.approx(float(paper["outside the UNet"].rstrip(" %")), abs=2)
