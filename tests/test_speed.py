"""What decoding costs: calls, waits for the device, graphs; and the benchmark that measures it."""

import time

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.utils._python_dispatch import TorchDispatchMode

from rsic_diffusers import HSVLC, GuidedSelfRecurrentDDIMScheduler
from rsic_diffusers.evaluation.experiments import benchmark
from rsic_diffusers.evaluation.experiments.decoding_profile import Stopwatch, profile_decoding
from rsic_diffusers.models.layers import SFT


STRENGTH = {"num_inference_steps": 4, "num_recurrence_steps": 2, "strength": 1.0}
PAPER = {"preset": "paper", "num_inference_steps": 2, "num_recurrence_steps": 2}


@pytest.fixture(scope="module")
def files(encoder, photo):
    """Three of 64 x 64: two with one caption, one with none."""
    photos = [photo.crop((x, 80, x + 64, 144)) for x in (150, 200, 250)]
    return encoder(photos, caption=["a woman in a cap", None, "a woman in a cap"], weight=0.2).bitstream


@pytest.fixture
def watched(decoder):
    """Inputs of each UNet and text encoder call, and the number of times that M was turned into modulations."""
    calls = {"unet": [], "text": [], "sft": 0}
    hooks = [
        decoder.unet.register_forward_pre_hook(lambda _, args: calls["unet"].append(args)),
        decoder.text_encoder.register_forward_pre_hook(lambda _, args: calls["text"].append(args[0])),
    ]

    def count(*_):
        calls["sft"] += 1

    hooks += [one.register_forward_hook(count) for one in decoder.hsvlc.modules() if isinstance(one, SFT)]
    yield calls
    for hook in hooks:
        hook.remove()


def test_a_step_is_one_unet_call_and_a_text_is_embedded_once(decoder, files, watched):
    out = decoder(files, **PAPER, output_type="latent")
    assert out.num_unet_evaluations == len(watched["unet"]) == 2 + 2 * 2
    # Inverted with the caption alone, denoised in pairs.
    assert [len(sample) for sample, _, _ in watched["unet"]] == [3] * 2 + [6] * 4
    (tokens,) = watched["text"]
    captions = [decoder.tokenizer.decode(row, skip_special_tokens=True) for row in tokens]
    assert captions == ["a woman in a cap", ""]
    embeddings = watched["unet"][-1][2]
    of_caption, of_nothing = embeddings[3], embeddings[4]
    assert not torch.equal(of_caption, of_nothing)
    for row, expected in zip(embeddings, [of_nothing] * 3 + [of_caption, of_nothing, of_caption]):
        torch.testing.assert_close(row, expected, atol=0, rtol=0)
    # Nine modulated blocks: for each file's stream, and once for all steps.
    assert watched["sft"] == 9 * (3 + 1)


def test_without_captions_there_are_no_pairs(decoder, files, watched):
    decoder([files[1]] * 2, **PAPER, inversion_guidance_scale=0.0)
    assert [len(sample) for sample, _, _ in watched["unet"]] == [2] * 6 and len(watched["text"][0]) == 1


def test_a_scale_of_one_everywhere_takes_no_pairs_and_gives_their_picture(decoder, files, watched):
    """Against a scale that is a map, and hardly another."""
    settings = {**STRENGTH, "output_type": "latent", "guidance_scale": 1.0}
    alone = decoder(files, **settings, referring_scale=0.0).images
    number = len(watched["unet"])
    pairs = decoder(files, **settings, referring_scale=1e-7).images
    assert [len(sample) for sample, _, _ in watched["unet"]] == [3] * number + [6] * number
    torch.testing.assert_close(alone, pairs, atol=1e-4, rtol=1e-4)


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for values of tensors."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        self.number += name in ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("settings", [STRENGTH, PAPER, {**PAPER, "guidance_target": "clean"}])
def test_no_value_is_read_in_the_loop(decoder, files, settings):
    at_call = []
    with Reads() as reads:
        hook = decoder.unet.register_forward_hook(lambda *_: at_call.append(reads.number))
        decoder(files, **settings)
        hook.remove()
    assert len(at_call) >= 6 and at_call[0] == at_call[-1] > 0


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [STRENGTH, PAPER])
def test_a_gpu_is_not_waited_for_in_the_loop(files, settings):
    from rsic_diffusers import RSICDecoderPipeline

    decoder = RSICDecoderPipeline.from_pretrained("rsic-tiny", dtype=torch.float16).to("cuda")
    decoder(files, **settings)
    calls = []

    def guard(*_):
        calls.append(None)
        torch.cuda.set_sync_debug_mode("error" if len(calls) < evaluations else "default")

    evaluations = decoder(files, **settings).num_unet_evaluations
    decoder.unet.register_forward_pre_hook(guard)
    try:
        decoder(files, **settings)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(calls) == evaluations


@pytest.mark.parametrize("finest", [None, 2])
def test_conditions_stand_for_m(hsvlc, finest):
    torch.manual_seed(0)
    latents, weight_map = torch.randn(2, 4, 21, 26), torch.rand(2, 1, 3, 4)
    options = {"return_bits": True, "finest": None if finest is None else torch.tensor([finest, 3])}
    with torch.no_grad():
        expected = hsvlc(latents, weight_map, **options)
        ours = hsvlc(latents, hsvlc.condition(weight_map, 21, 26), **options)
    assert torch.equal(ours.sample, expected.sample)
    assert all(torch.equal(one, other) for one, other in zip(ours.bits, expected.bits, strict=True))
    with pytest.raises(ValueError, match="expected \\(2, 1, 3, 5\\)"):
        hsvlc.condition(weight_map, 21, 33)


def check_compiled(step, timesteps, latents):
    """One graph, traced at one timestep, gives what running eagerly gives at others."""
    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        compiled(timesteps[0], latents)
        with torch.compiler.set_stance("fail_on_recompile"):
            for t in timesteps[1:]:
                torch.testing.assert_close(compiled(t, latents), step(t, latents), atol=1e-5, rtol=1e-5)


def test_a_step_compiles_to_one_graph_for_all_timesteps():
    """UNet, classifier-free guidance, DDIM and the gradient through HSVLC."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type=None,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()
    hsvlc = HSVLC(hidden_channels=(8, 8, 8, 8), code_channels=(4, 4, 0, 0), prior_channels=8).eval()
    for parameter in hsvlc.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    scheduler = GuidedSelfRecurrentDDIMScheduler()
    scheduler.set_timesteps(10)
    latents, reference, embeddings = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16), torch.randn(2, 77, 16)
    conditions = hsvlc.condition(torch.rand(1, 1, 2, 2), 16, 16)

    def step(t, latents, strength=1e4):
        without, with_ = unet(torch.cat([latents] * 2), t, embeddings).sample.chunk(2)
        return scheduler.step(
            without + 3 * (with_ - without),
            t,
            latents,
            reference=reference,
            codec=lambda z: hsvlc(z, conditions).sample,
            guidance_strength=strength,
            guidance_target="clean",
        ).prev_sample

    check_compiled(step, scheduler.timesteps[[2, 5, 9]], latents)
    t = scheduler.timesteps[5]
    assert (step(t, latents) - step(t, latents, strength=0.0)).abs().max() > 1e-2


def test_a_step_towards_noisy_latents_compiles_too():
    scheduler = GuidedSelfRecurrentDDIMScheduler()
    scheduler.set_timesteps(10)
    torch.manual_seed(0)
    eps, latents, reference = torch.randn(3, 1, 4, 16, 16)

    def step(t, latents):
        return scheduler.step(
            eps, t, latents, reference=reference, codec=torch.tanh, guidance_target="noisy"
        ).prev_sample

    check_compiled(step, scheduler.timesteps[[0, 5, 9]], latents)


def test_the_scheduler_takes_timesteps_as_numbers_and_as_tensors():
    torch.manual_seed(0)
    scheduler = GuidedSelfRecurrentDDIMScheduler()
    scheduler.set_timesteps(10)
    eps, sample = torch.randn(2, 1, 4, 8, 8)
    for t in scheduler.timesteps[[0, 9]]:
        for function in (
            lambda t: scheduler.step(eps, t, sample, sample.roll(1), codec=torch.tanh).prev_sample,
            lambda t: scheduler.invert_step(eps, t, sample),
            lambda t: scheduler.renoise(sample, t, torch.Generator().manual_seed(0)),
            lambda t: scheduler.add_noise(sample, eps, t),
        ):
            assert torch.equal(function(t), function(int(t)))


def test_a_call_inside_a_call_is_counted_once():
    watch = Stopwatch(torch.device("cpu"))
    inner = watch.timed("inner", lambda: time.sleep(0.05))

    def outer():
        inner()
        time.sleep(0.02)
        inner()

    start = time.perf_counter()
    watch.timed("outer", outer)()
    whole = time.perf_counter() - start
    assert 0.1 <= watch.seconds["inner"] and 0.02 <= watch.seconds["outer"] <= whole - 0.1
    assert sum(watch.seconds.values()) == pytest.approx(whole, abs=0.005)


def test_a_profile_adds_up_and_leaves_nothing_behind(decoder, files):
    start = time.perf_counter()
    profile = profile_decoding(decoder, files, **STRENGTH)
    whole = time.perf_counter() - start
    assert profile.evaluations == 4 * 2 and min(profile.parts.values()) > 0
    assert 0.8 * whole < profile.seconds <= whole
    assert profile.parts["UNet"] / profile.seconds == pytest.approx(1 - profile.outside_unet)
    assert "forward" not in vars(decoder.unet) and "step" not in vars(decoder.scheduler)


def test_a_compiled_step_is_profiled_whole(decoder, files, monkeypatch):
    step = torch.compile(decoder.scheduler.step, fullgraph=True, backend="eager")
    monkeypatch.setattr(decoder.scheduler, "step", step)
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
    assert sum(seconds.values()) == pytest.approx(float(paper["seconds"]), abs=0.02)
    share = 100 * (1 - seconds["UNet, s"] / sum(seconds.values()))
    assert share == pytest.approx(float(paper["outside the UNet"].rstrip(" %")), abs=2)
