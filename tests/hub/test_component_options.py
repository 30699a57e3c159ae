"""What is asked for by component, and other ways in which people load: on Stable Diffusion's architecture, small."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import stable_diffusion
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
from diffusers import AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from hub_server import HubServer

from rsic_diffusers import HSVLC, GuidedSelfRecurrentDDIMScheduler, RSICDecoderPipeline, RSICEncoderPipeline
from rsic_diffusers.evaluation.random_stable_diffusion import LEVEL_ERROR, make_components
from rsic_diffusers.hub import resolve_model
from rsic_diffusers.pipelines.compatibility import check_stable_diffusion_1, latent_variance


TOKENIZER = resolve_model("rsic-tiny") + "/tokenizer"
SETTINGS = ("num_inference_steps", "num_recurrence_steps", "strength", "guidance_target", "beta_start", "steps_offset")
STEPS = {"num_inference_steps": 2, "num_recurrence_steps": 1, "strength": 1.0, "guidance_target": "clean"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Folders base and thin, and the base as one file."""
    root = tmp_path_factory.mktemp("small")
    components = make_components(stable_diffusion.SMALL)
    stable_diffusion.save_folder(components, TOKENIZER, root / "base")
    stable_diffusion.save_single_file(components, root / "base.safetensors")
    torch.manual_seed(1)
    hsvlc = HSVLC(scaling_factor=0.18215, level_error=LEVEL_ERROR)
    hsvlc.update()
    hsvlc.save_pretrained(root / "thin" / "hsvlc")
    GuidedSelfRecurrentDDIMScheduler().save_pretrained(root / "thin" / "scheduler")
    index = {"_class_name": "RSICDecoderPipeline", "_base_model_name_or_path": str(root / "base")}
    index |= {"hsvlc": ["rsic_diffusers", "HSVLC"]}
    index |= {"scheduler": ["rsic_diffusers", "GuidedSelfRecurrentDDIMScheduler"]}
    (root / "thin" / "model_index.json").write_text(json.dumps(index))
    return root


@pytest.fixture(scope="module")
def file(small, small_photo):
    encoder = RSICEncoderPipeline.from_pretrained(small / "thin")
    encoder.set_progress_bar_config(disable=True)
    return encoder(small_photo, caption="a woman in a cap", weight=0.3).bitstream


def load(*args, **kwargs):
    decoder = RSICDecoderPipeline.from_pretrained(*args, **kwargs)
    decoder.set_progress_bar_config(disable=True)
    return decoder


def picture(decoder, file):
    return decoder(file, **STEPS, output_type="np").images[0]


@pytest.fixture(scope="module")
def reference(small, file):
    return picture(load(small / "thin"), file)


def weights_of(decoder):
    return {name: decoder.components[name].state_dict() for name in ("unet", "vae", "text_encoder")}


def test_threads_may_load_at_once(small, file, reference):
    """Modules are made on the device "meta" meanwhile, for all threads, and each thread puts back what it found."""
    with ThreadPoolExecutor(3) as pool:
        decoders = list(pool.map(lambda _: load(small / "thin"), range(3)))
    assert torch.nn.Linear(2, 2).weight.device.type == "cpu"
    for decoder in decoders:
        np.testing.assert_array_equal(picture(decoder, file), reference)


def test_a_plain_stable_diffusion_and_a_codec(small, file, reference, tmp_path):
    """Its scheduler is another, whose noise schedule is taken, as `base_model` and `from_pipe` do."""
    codec = HSVLC.from_pretrained(small / "thin", subfolder="hsvlc", low_cpu_mem_usage=False)
    decoder = load(small / "base", hsvlc=codec, low_cpu_mem_usage=False)
    np.testing.assert_array_equal(picture(decoder, file), reference)
    # A schedule that no class has by default.
    shutil.copytree(small / "base", tmp_path / "base")
    path = tmp_path / "base" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "beta_end": 0.014, "prediction_type": "v_prediction"}))
    for asked, expected in ((None, "v_prediction"), ("epsilon", "epsilon")):
        config = load(tmp_path / "base", hsvlc=codec, prediction_type=asked).scheduler.config
        assert (config.beta_end, config.prediction_type) == (0.014, expected)


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "tokenizer", "hsvlc", "scheduler"])
def test_what_cannot_be_left_out(small, name):
    for arguments in ((small / "thin",), ("rsic-tiny", small / "base")):
        with pytest.raises(ValueError, match=f"cannot be loaded with {name}=None"):
            load(*arguments, **{name: None})


@pytest.mark.parametrize("base", ["base", "base.safetensors"])
def test_types_by_component(small, base):
    dtype = {"unet": torch.bfloat16, "text_encoder": "float16", "default": torch.float32}
    options = {"config": str(small / "base")} if "." in base else {}
    decoder = load(small / "thin", base_model=small / base, dtype=dtype, **options)
    types = [decoder.components[name].dtype for name in ("unet", "text_encoder", "vae", "hsvlc")]
    assert types == [torch.bfloat16, torch.float16, torch.float32, torch.float32]


def test_what_names_no_component_or_type_is_refused(small):
    for options, message in [
        ({"dtype": {"transformer": torch.float16}}, "dtype names transformer; components are vae"),
        ({"dtype": "half precision"}, "float16 say; got 'half precision'"),
        ({"dtype": torch.int8}, "got torch.int8"),
        ({"dtype": torch.float16, "torch_dtype": torch.float16}, "two names of one argument"),
        ({"device_map": {"transformer": "cpu"}}, "device_map names transformer"),
        ({"device_map": "balanced"}, "does not reach a base"),
        ({"quantization_config": {"transformer": None}}, "quantization_config names transformer"),
        ({"prediction_type": "sample"}, "prediction_type must be one of epsilon, v_prediction; got 'sample'"),
        ({"config": "somewhere"}, "config= goes with a single file"),
    ]:
        with pytest.raises(ValueError, match=message):
            load(small / "thin", **options)


def test_quantization_by_component_reaches_the_base(small, file, reference):
    """Eight-bit weights, in files a quarter as large: nearly the same picture, and the codec as it was."""
    pytest.importorskip("torchao")
    from diffusers import TorchAoConfig
    from torchao.quantization import Int8WeightOnlyConfig

    quantization = {"unet": TorchAoConfig(Int8WeightOnlyConfig())}
    decoder = load(small / "thin", quantization_config=quantization)
    kinds = {type(parameter).__name__ for parameter in decoder.unet.parameters()}
    assert len(kinds) == 2 and {type(p).__name__ for p in decoder.vae.parameters()} == {"Parameter"}
    ours = picture(decoder, file)
    assert 0 < np.abs(ours - reference).mean() < 0.02


def test_quantization_reaches_the_base_or_is_refused_by_name(small):
    """Without a package that quantizes (torchao is no part of the tests), what asks for one has been reached."""
    from diffusers import QuantoConfig

    quantization = {"unet": QuantoConfig(weights_dtype="int8")}
    with pytest.raises(ImportError, match="quanto"):
        load(small / "thin", quantization_config=quantization)
    # The encoder has no UNet, and takes the same arguments.
    assert RSICEncoderPipeline.from_pretrained(small / "thin", quantization_config=quantization).hsvlc is not None
    with pytest.raises(ValueError, match="names unet, but does not reach the single file"):
        load(small / "thin", base_model=small / "base.safetensors", quantization_config=quantization)
    with pytest.raises(ValueError, match="names hsvlc"):
        load(small / "thin", quantization_config={"hsvlc": quantization["unet"]})


def test_devices_by_component(small, file, reference):
    """On a machine without a second device one can see where things were put; what runs is on the CPU."""
    decoder = load(small / "thin", device_map={"text_encoder": "meta", "": "cpu"})
    assert decoder.text_encoder.device.type == "meta" and decoder.text_encoder._hf_hook.io_same_device
    assert {decoder.components[name].device.type for name in ("unet", "vae", "hsvlc")} == {"cpu"}
    assert decoder._execution_device == torch.device("cpu")
    with pytest.raises(ValueError, match="device mapping strategy"):
        decoder.to("cpu")
    np.testing.assert_array_equal(
        picture(load(small / "thin", device_map={"unet": "cpu", "": "cpu"}), file), reference
    )
    apart = load(small / "thin", device_map={"vae": "cpu:0", "text_encoder": "cpu:0", "": "cpu"})  # as if another
    assert all(hasattr(part, "_hf_hook") for part in (*apart.vae.children(), apart.text_encoder))
    apart.reset_device_map()
    assert not any(
        hasattr(part, "_hf_hook") for name in ("vae", "text_encoder") for part in apart.components[name].modules()
    )


@pytest.mark.gpu
def test_devices_by_component_on_a_gpu(small, file):
    on_one = picture(load(small / "thin", device_map="cuda"), file)
    decoder = load(small / "thin", device_map={"unet": "cuda", "hsvlc": "cuda", "": "cpu"})
    assert decoder.unet.device.type == "cuda" and decoder.vae.device.type == decoder.text_encoder.device.type == "cpu"
    np.testing.assert_allclose(picture(decoder, file), on_one, atol=0.02)


def test_what_a_single_file_predicts_is_said_by_argument_and_stays_with_what_is_saved(small, tmp_path):
    options = {"base_model": small / "base.safetensors", "config": str(small / "base")}
    decoder = load(small / "thin", prediction_type="v_prediction", **options)
    assert decoder.scheduler.config.prediction_type == "v_prediction"
    assert load(small / "thin", **options).scheduler.config.prediction_type == "epsilon"
    decoder.save_pretrained(tmp_path / "saved")
    assert load(tmp_path / "saved").scheduler.config.prediction_type == "v_prediction"
    assert load(resolve_model("rsic-tiny"), prediction_type="v_prediction").scheduler._ddim.config.prediction_type == (
        "v_prediction"
    )


def test_a_thin_pipeline_is_saved_thin_and_whole_if_asked(small, file, reference, tmp_path):
    decoder = load(small / "thin")
    decoder.save_pretrained(tmp_path / "thin")
    assert {path.name for path in (tmp_path / "thin").iterdir()} == {"hsvlc", "scheduler", "model_index.json"}
    index = json.loads((tmp_path / "thin" / "model_index.json").read_text())
    assert index["_base_model_name_or_path"] == str(small / "base") and "unet" not in index
    np.testing.assert_array_equal(picture(load(tmp_path / "thin"), file), reference)

    decoder.save_pretrained(tmp_path / "full", full=True)
    shutil.copytree(tmp_path / "full", tmp_path / "alone")
    index = json.loads((tmp_path / "alone" / "model_index.json").read_text())
    assert "_base_model_name_or_path" not in index and index["unet"] == ["diffusers", "UNet2DConditionModel"]
    np.testing.assert_array_equal(picture(load(tmp_path / "alone"), file), reference)

    # The encoder's part serves a decoder too: what it lacks is the base's.
    RSICEncoderPipeline.from_pretrained(small / "thin").save_pretrained(tmp_path / "encoder")
    assert {path.name for path in (tmp_path / "encoder").iterdir()} == {"hsvlc", "model_index.json"}
    ours, theirs = (load(folder).scheduler.config for folder in (tmp_path / "encoder", small / "thin"))
    assert [ours[name] for name in SETTINGS] == [theirs[name] for name in SETTINGS]


def test_what_took_the_place_of_a_bases_component_is_saved(small, tmp_path):
    decoder = load(small / "thin")
    with torch.no_grad():
        vae = make_components(stable_diffusion.SMALL)["vae"]
        vae.decoder.conv_out.bias.fill_(0.25)
    decoder.vae = vae
    decoder.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} >= {"hsvlc", "scheduler", "vae"}
    for options in ({}, {"base_model": small / "base"}):
        again = load(tmp_path / "saved", **options)
        assert torch.equal(again.vae.decoder.conv_out.bias, vae.decoder.conv_out.bias)
        assert torch.equal(again.unet.conv_in.weight, decoder.unet.conv_in.weight)


@pytest.fixture(scope="module")
def tiny_vae():
    """A VAE of TAESD's kind whose latents have the variance of scaled Stable Diffusion latents."""
    torch.manual_seed(2)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(16,) * 4,
        decoder_block_out_channels=(16,) * 4,
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    with torch.no_grad():
        vae.encoder.layers[-1].weight.mul_(latent_variance(vae) ** -0.5)
    return vae


def test_a_tiny_vae_beside_a_codec_of_stable_diffusion_is_judged_by_its_latents(small, tiny_vae, small_photo):
    assert tiny_vae.config.scaling_factor == 1
    options = {"vae": tiny_vae, "device_map": "cpu"}
    encoder = RSICEncoderPipeline.from_pretrained(small / "thin", **options)
    for pipeline in (encoder, decoder := load(small / "thin", **options)):
        pipeline.set_progress_bar_config(disable=True)
        assert pipeline.vae is tiny_vae
    assert decoder(encoder(small_photo).bitstream, **STEPS).images[0].size == small_photo.size
    # The same latents not scaled: what an AutoencoderKL of Stable Diffusion gives by itself.
    with torch.no_grad():
        tiny_vae.encoder.layers[-1].weight.div_(0.18215)
    try:
        with pytest.raises(ValueError, match=r"variance of 1, and a photo's latents of this VAE have 30"):
            load(small / "thin", vae=tiny_vae)
    finally:
        with torch.no_grad():
            tiny_vae.encoder.layers[-1].weight.mul_(0.18215)


def test_a_latent_consistency_unet_is_refused_by_name(small):
    config = {**UNet2DConditionModel.load_config(small / "base", subfolder="unet"), "time_cond_proj_dim": 256}
    with pytest.raises(ValueError, match="latent consistency model"):
        load(small / "thin", unet=UNet2DConditionModel.from_config(config))
    check_stable_diffusion_1({**config, "time_cond_proj_dim": None}, load(small / "thin").text_encoder.config)


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_the_pipe_that_gives_its_components_may_be_offloaded(small, file, reference, offload):
    stock = StableDiffusionPipeline.from_pretrained(small / "base", safety_checker=None, dtype=torch.float32)
    stock.set_progress_bar_config(disable=True)
    if offload == "model":
        stock.enable_model_cpu_offload(device="cpu")
    else:
        from accelerate import cpu_offload

        for name in ("unet", "vae", "text_encoder"):
            cpu_offload(stock.components[name], "cpu")
    decoder = RSICDecoderPipeline.from_pipe(stock, hsvlc=HSVLC.from_pretrained(small / "thin", subfolder="hsvlc"))
    decoder.set_progress_bar_config(disable=True)
    assert all(hasattr(decoder.components[name], "_hf_hook") for name in ("unet", "vae", "text_encoder"))
    np.testing.assert_array_equal(picture(decoder, file), reference)
    if offload == "model":
        # After a call each model is to be sent away, by the hooks of the pipeline that made the call.
        assert len(decoder._all_hooks) == 3 and len(stock._all_hooks) == 3
    assert stock("a cap", num_inference_steps=1, output_type="np", height=64, width=64).images.shape == (1, 64, 64, 3)
    np.testing.assert_array_equal(picture(decoder, file), reference)


def test_an_offloaded_tiny_vae_is_not_called_where_it_lies(small, tiny_vae):
    """Its weights would be brought to the device, and its input not: here to one that holds nothing."""
    stock = StableDiffusionPipeline.from_pretrained(small / "base", safety_checker=None, vae=tiny_vae)
    add_hook_to_module(tiny_vae, AlignDevicesHook(execution_device="meta", offload=True))
    try:
        hsvlc = HSVLC.from_pretrained(small / "thin", subfolder="hsvlc")
        assert RSICDecoderPipeline.from_pipe(stock, hsvlc=hsvlc).vae is tiny_vae
    finally:
        remove_hook_from_module(tiny_vae, recurse=True)


def test_a_thin_pipeline_by_way_of_a_stock_one(small, file, reference):
    """diffusers' own `from_pipe` keeps settings that it does not know, under other names."""
    decoder = load(small / "thin")
    decoder.register_to_config(default_max_side=256)
    stock = StableDiffusionPipeline.from_pipe(
        decoder, safety_checker=None, feature_extractor=None, dtype=torch.float32
    )
    again = RSICDecoderPipeline.from_pipe(stock, hsvlc=decoder.hsvlc)
    again.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(picture(again, file), reference)
    assert again.config.default_max_side == 256


@pytest.mark.parametrize("options", [{"offload_type": "leaf_level"}, {"num_blocks_per_group": 1}])
def test_offloading_by_groups(small, file, reference, options, tiny_vae):
    decoder = load(small / "thin")
    decoder.enable_group_offload("cpu", **options)
    hooked = [name for name in ("unet", "vae", "text_encoder", "hsvlc") if has_hooks(decoder.components[name])]
    # The codec's methods other than `forward` would not have its weights brought.
    assert hooked == ["unet", "vae", "text_encoder"]
    np.testing.assert_allclose(picture(decoder, file), reference, atol=1e-5)
    with_tiny = RSICEncoderPipeline.from_pretrained(small / "thin", vae=tiny_vae)
    with_tiny.enable_group_offload("cpu", exclude_modules="vae", **options)
    assert not has_hooks(tiny_vae)


def has_hooks(module):
    return any(hasattr(part, "_diffusers_hook") for part in module.modules())


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["model", "leaf_level", "block_level"])
def test_offloaded_on_a_gpu(small, file, how):
    """Each way of offloading gives the picture of the whole model on the GPU."""
    expected = picture(load(small / "thin").to("cuda"), file)
    decoder = load(small / "thin")
    if how == "model":
        stock = StableDiffusionPipeline.from_pretrained(small / "base", safety_checker=None, dtype=torch.float32)
        stock.enable_model_cpu_offload()
        decoder = RSICDecoderPipeline.from_pipe(stock, hsvlc=decoder.hsvlc)
        decoder.set_progress_bar_config(disable=True)
    else:
        decoder.enable_group_offload("cuda", offload_type=how, num_blocks_per_group=1)
    for _ in range(2):
        np.testing.assert_allclose(picture(decoder, file), expected, atol=0.02)
    assert decoder.unet.conv_in.weight.device.type == "cpu" and decoder.hsvlc.device.type == "cuda"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hsvlc": "HSVLC"}, "gives 'HSVLC' for hsvlc; it should be the names of a library and of a class"),
        ({"hsvlc": ["rsic_diffusers", 5]}, "for hsvlc"),
        ({"hsvlc": ["rsic_diffusers", None]}, "two names, or two nulls"),
        ({"hsvlc": ["os", "system"]}, "from the library os; only "),
        ({"image_encoder": ["this", "X"]}, "from the library this; only "),
        ({"feature_extractor": "foo"}, "gives 'foo' for feature_extractor"),
        ({"hsvlc": ["rsic_diffusers", "BitstreamError"]}, "makes hsvlc a BitstreamError; rsic_diffusers has no such"),
        ({"scheduler": ["diffusers", "NoSuchScheduler"]}, "makes scheduler a NoSuchScheduler; diffusers has no such"),
        ({"_class_name": ["pipeline", "RSICDecoderPipeline"]}, "asks for code of its own"),
        ({"_base_model_name_or_path": ["org/base"]}, r"names no base checkpoint .* but \['org/base'\]"),
        ({"_base_options": {"torch_dtype": "float16"}}, "gives its base the option torch_dtype='float16'"),
        ({"_base_options": ["config"]}, "names no base checkpoint"),
        ([], "holds no table of components"),
    ],
)
def test_a_hostile_index_ends_in_a_sentence(small, changes, message, tmp_path):
    shutil.copytree(small / "thin", tmp_path / "repo")
    index = json.loads((tmp_path / "repo" / "model_index.json").read_text())
    index = {**index, **changes} if isinstance(changes, dict) else changes
    (tmp_path / "repo" / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "repo")


def test_a_hostile_base_ends_in_a_sentence(small, tmp_path):
    shutil.copytree(small / "base", tmp_path / "base")
    for entry in ("UNet2DConditionModel", {"library": "diffusers"}, [1, 2]):
        index = json.loads((small / "base" / "model_index.json").read_text())
        (tmp_path / "base" / "model_index.json").write_text(json.dumps({**index, "unet": entry}))
        with pytest.raises(ValueError, match="for unet; it should be the names"):
            load(small / "thin", base_model=tmp_path / "base")


OVER_HTTP = """
import sys, torch
{imports}
from diffusers import DiffusionPipeline
repo = "org/thin"
try:
    DiffusionPipeline.from_pretrained(repo)
except ValueError as error:
    assert "use RSICDecoderPipeline.from_pretrained" in str(error), error
else:
    raise SystemExit("a thin repo has no UNet")
assert type(DiffusionPipeline.from_pretrained("org/full")).__name__ == "RSICDecoderPipeline"
from rsic_diffusers import RSICDecoderPipeline
decoder = RSICDecoderPipeline.from_pretrained(
    repo, dtype={{"unet": torch.bfloat16}}, device_map={{"": "cpu"}}, prediction_type="v_prediction"
)
assert decoder.unet.dtype == torch.bfloat16 and decoder.vae.dtype == torch.float32
assert decoder.scheduler.config.prediction_type == "v_prediction"
decoder.save_pretrained("saved")
assert RSICDecoderPipeline.from_pretrained("saved").config["_base_model_name_or_path"] == "org/base"
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import diffusers, rsic_diffusers",
        "import rsic_diffusers, diffusers",
        # Looked for only, as peft and transformers do.
        "import importlib.util, rsic_diffusers; importlib.util.find_spec('diffusers'); import diffusers",
    ],
)
def test_over_http_whichever_package_is_imported_first(small, run_python, tmp_path, imports):
    """Our classes are known to diffusers, a thin repo under its own loader says what to do, options reach the base."""
    shutil.copytree(small / "thin", tmp_path / "thin")
    index = json.loads((tmp_path / "thin" / "model_index.json").read_text())
    index["_base_model_name_or_path"] = "org/base"
    (tmp_path / "thin" / "model_index.json").write_text(json.dumps(index))
    load(small / "thin").save_pretrained(tmp_path / "full", full=True)
    hub = HubServer({"org/thin": tmp_path / "thin", "org/base": small / "base", "org/full": tmp_path / "full"})
    try:
        run_python(OVER_HTTP.format(imports=imports), HF_ENDPOINT=hub.endpoint, HF_HOME=str(tmp_path / "cache"))
    finally:
        hub.shutdown()
