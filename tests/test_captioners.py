"""Captions by vision-language models: random LLaVA, SmolVLM (as Idefics3) and BLIP, and functions in their place."""

import copy
import json
import re
from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    BlipProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from rsic_diffusers import Bitstream, Captioner, RSICEncoderPipeline
from rsic_diffusers.bitstream.caption_coding import caption_dictionary, encode_caption
from rsic_diffusers.commands.rsic_cli import main
from rsic_diffusers.description import captioners
from rsic_diffusers.description.captioners import PROMPT, SHORT_PROMPT, describe, download_size
from rsic_diffusers.description.shortening import (
    clause_ends,
    cut_sentences,
    cut_within_sentence,
    sentence_ends,
    word_ends,
)


CHAT_TEMPLATE = (
    "A chat. {% for message in messages %}{{ message['role'] | upper }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
PLAIN = f"USER: <image>\n{PROMPT} ASSISTANT:"
LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
# Weights this large make random answers that differ between images and prompts.
LLAMA = LlamaConfig(**LAYERS, bos_token_id=1, eos_token_id=2, pad_token_id=3, initializer_range=1.0)


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-pair encoding of 1000 tokens, learnt from the words of our dictionary of captions."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    specials = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=specials, initial_alphabet=alphabet)
    bpe.train_from_iterator([caption_dictionary().decode()], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


@pytest.fixture(scope="module")
def llava(tokenizer):
    vision = CLIPVisionConfig(**LAYERS, image_size=28, patch_size=14)
    text = {**LLAMA.to_dict(), "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=4)
    ).eval()
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    return model, processor


@pytest.fixture(scope="module")
def blip():
    words = sorted(set(re.findall("[a-z]+", caption_dictionary().decode().lower())))
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    tokenizer = BertTokenizer({token: i for i, token in enumerate(specials + words)}, bos_token="[DEC]")
    ids = {"bos_token_id": 5, "sep_token_id": 3, "pad_token_id": 0, "eos_token_id": 3}
    text = {**LAYERS, **ids, "encoder_hidden_size": 32, "vocab_size": len(tokenizer), "initializer_range": 1.0}
    vision = {**LAYERS, "image_size": 32, "patch_size": 16, "initializer_range": 0.5}
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)).eval()
    model.text_decoder.cls.predictions.bias.data[: len(specials)] = -1e4  # so that it answers in words
    return model, BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer)


@pytest.fixture(scope="module")
def idefics(tokenizer):
    """What SmolVLM is built on (and the first SmolVLMs are); its processor needs no further package."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<fake_token_around_image>", "<global-img>", "<end_of_utterance>"], special_tokens=True)
    text = {**LLAMA.to_dict(), "vocab_size": len(tokenizer)}
    vision = {**LAYERS, "image_size": 28, "patch_size": 14}
    torch.manual_seed(0)
    config = Idefics3Config(text_config=text, vision_config=vision, scale_factor=2, image_token_id=4)
    images = Idefics3ImageProcessor(
        size={"longest_edge": 28}, max_image_size={"longest_edge": 28}, do_image_splitting=False
    )
    processor = Idefics3Processor(images, tokenizer, image_seq_len=1, chat_template=CHAT_TEMPLATE)
    return Idefics3ForConditionalGeneration(config).eval(), processor


@pytest.fixture(scope="module")
def llava_folder(llava, tmp_path_factory):
    return save(llava, tmp_path_factory.mktemp("llava"))


def save(model_and_processor, folder):
    for part in model_and_processor:
        part.save_pretrained(folder)
    return folder


def by_hand(model, processor, number, **inputs):
    """The first tokens of an answer, without the question."""
    inputs = processor(**inputs, return_tensors="pt")
    with torch.no_grad():
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=number)[0]
    return tokens[inputs["input_ids"].shape[1] :] if "input_ids" in inputs else tokens


# Generation


@pytest.mark.parametrize("template, question", [(CHAT_TEMPLATE, f"A chat. {PLAIN}"), (None, PLAIN)])
def test_llava_answers_as_its_generate_does(llava, photo, monkeypatch, template, question):
    model, processor = llava
    processor = copy.copy(processor)
    processor.chat_template = template
    tokens = by_hand(model, processor, 40, images=photo, text=question)
    assert len(tokens) == 40
    monkeypatch.setattr(model.generation_config, "eos_token_id", int(tokens[25]))
    tokens = by_hand(model, processor, 40, images=photo, text=question)
    caption = Captioner(model, processor)(photo)
    assert caption == processor.decode(tokens, skip_special_tokens=True).strip()
    assert len(caption.split()) > 3 and "USER" not in caption


def test_idefics_answers_as_its_generate_does(idefics, photo, monkeypatch):
    model, processor = idefics
    question = f"A chat. {PLAIN}"
    tokens = by_hand(model, processor, 40, images=[photo], text=question)
    monkeypatch.setattr(model.generation_config, "eos_token_id", int(tokens[25]))
    tokens = by_hand(model, processor, 40, images=[photo], text=question)
    assert Captioner(model, processor)(photo) == processor.decode(tokens, skip_special_tokens=True).strip()


def test_blip_answers_as_its_generate_does(blip, photo, monkeypatch):
    model, processor = blip
    tokens = by_hand(model, processor, 20, images=photo)
    assert len(tokens) == 21 and tokens[0] == 5  # [DEC] comes first
    monkeypatch.setattr(model.config.text_config, "sep_token_id", int(tokens[9]))
    tokens = by_hand(model, processor, 20, images=photo)
    captioner = Captioner(model, processor)
    assert captioner(photo) == processor.decode(tokens, skip_special_tokens=True) != ""
    assert not captioner.takes_prompt and captioner(photo, prompt="Another question?") == captioner(photo)


def test_image_and_prompt_matter(llava, photo):
    captioner = Captioner(*llava)
    captions = {captioner(photo), captioner(photo.rotate(90)), captioner(photo, SHORT_PROMPT)}
    captions.add(Captioner(*llava, prompt="What is it?")(photo))
    assert len(captions) == 4
    assert captioner(photo) == captioner(photo.convert("RGBA"))


def test_an_answer_stopped_by_the_bound_ends_with_a_word(llava, photo):
    model, processor = llava
    tokens = by_hand(model, processor, 30, images=photo, text=f"A chat. {PLAIN}")
    cut_words = 0
    for number in range(4, 30):
        caption = Captioner(model, processor, max_new_tokens=number)(photo)
        whole, longer = (processor.decode(tokens[:n], skip_special_tokens=True).strip() for n in (number, 30))
        assert whole.startswith(caption)
        if not sentence_ends(caption):
            assert caption == whole[: ([0] + word_ends(whole)[:-1])[-1]]
        cut_words += longer[len(whole) :][:1].strip() != ""
    assert cut_words > 5  # the bound does fall within words


@pytest.mark.parametrize("model", ["llava", "blip"])
def test_a_saved_folder(request, model, photo, tmp_path, capsys):
    live = request.getfixturevalue(model)
    save(live, tmp_path)
    captioner = Captioner.from_pretrained(tmp_path, dtype=torch.float32)
    assert captioner(photo) == Captioner(*live)(photo) != ""
    assert "Downloading" not in capsys.readouterr().err
    half = Captioner.from_pretrained(str(tmp_path), torch.bfloat16, "cpu", prompt="What is it?")
    assert half.model.dtype == torch.bfloat16 and half.prompt == "What is it?" and isinstance(half(photo), str)


# Cutting

SENTENCES = (
    "The image shows Dr. Lee, a woman in a navy uniform and cap, standing before a flag. She has gold stripes on her "
    'sleeves (e.g. four on each). A sign reads "No. 5 St. James St." Is it formal? Yes!'
)


def shorter_than(number):
    return lambda text: len(text) < number


def cuts(text, ends):
    return [text[:end].split()[-1] for end in ends]


def test_where_sentences_clauses_and_words_end():
    assert cuts(SENTENCES, sentence_ends(SENTENCES)) == ["flag.", "each).", 'St."', "formal?", "Yes!"]
    assert cuts(SENTENCES, clause_ends(SENTENCES)) == ["Lee", "cap", "sleeves"]
    assert cuts("3.5 m high... and wide; red - or not", clause_ends("3.5 m high... and wide; red - or not")) == [
        "wide",
        "red",
    ]
    assert [("sea, and -- (a) man"[:end]) for end in word_ends("sea, and -- (a) man")] == [
        "sea", "sea, and", "sea, and ", "sea, and -- (a)", "sea, and -- (a) man",
    ]  # fmt: skip
    chinese = "一只狗，在草地上。天空很蓝。"
    assert [chinese[:end] for end in sentence_ends(chinese)] == ["一只狗，在草地上。", chinese]
    assert sentence_ends("") == clause_ends("") == word_ends("") == []
    assert cuts("It is red. it is... blue", sentence_ends("It is red. it is... blue")) == []


@pytest.mark.parametrize(
    "number, sentences, within",
    [
        (500, SENTENCES, None),
        (190, 'The ... reads "No. 5 St. James St." Is it formal?', None),
        (150, "The ... four on each).", None),
        (84, "The ... before a flag.", None),
        (83, "", "The image shows Dr. Lee, a woman in a navy uniform and cap"),
        (58, "", "The image shows Dr. Lee, a woman in a navy uniform and"),
        (40, "", "The image shows Dr. Lee"),
        (10, "", "The image"),
        (4, "", "The"),
        (3, "", ""),
    ],
)
def test_cutting(number, sentences, within):
    fits = shorter_than(number)
    caption = cut_sentences(SENTENCES, fits)
    start, dots, end = sentences.partition(" ... ")
    assert caption.startswith(start) and caption.endswith(end) and bool(caption) == bool(sentences)
    assert len(caption) < number
    if within is not None:
        assert cut_within_sentence(SENTENCES, fits) == within


def test_a_clause_that_says_little_gives_way_to_words():
    text = "In this image, a man with a hat rides a horse along the beach"
    assert cut_within_sentence(text, shorter_than(40)) == "In this image, a man with a hat rides a"
    assert cut_within_sentence(text, shorter_than(22)) == "In this image"


@pytest.mark.parametrize("number", range(0, 200, 3))
def test_never_mid_word(number):
    for cut in (cut_sentences, cut_within_sentence):
        caption = cut(SENTENCES, shorter_than(number))
        assert SENTENCES.startswith(caption) and len(caption) < max(number, 1)
        rest = SENTENCES[len(caption) :]
        assert not caption or not rest or not rest[0].isalnum()


# Asking


class Answers:
    """A captioner that says what it is told to, and remembers what it was asked."""

    def __init__(self, answer, short_answer=""):
        self.answers, self.asked = {None: answer, SHORT_PROMPT: short_answer}, []

    def __call__(self, image, prompt=None):
        self.asked.append(prompt)
        return self.answers[prompt]


def test_less_is_asked_for_only_where_no_sentence_fits(photo):
    long = "A very long sentence about a dog, a cat and a horse. Short."
    short = "A dog, a cat and a horse."
    captioner = Answers(long, short)
    assert describe(captioner, photo, shorter_than(56)) == long[:52] and captioner.asked == [None]
    assert describe(captioner, photo, shorter_than(30)) == short and captioner.asked == [None, None, SHORT_PROMPT]
    assert describe(captioner, photo, shorter_than(15)) == "A dog, a cat"
    assert describe(captioner, photo, shorter_than(12)) == "A dog"
    assert describe(captioner, photo, shorter_than(1)) == ""
    assert describe(Answers(long, " "), photo, shorter_than(40)) == "A very long sentence about a dog"
    assert describe(Answers(" A\n\tdog. \n"), photo, shorter_than(10)) == "A dog."
    empty = Answers(" \n")
    assert describe(empty, photo, shorter_than(10)) == "" and empty.asked == [None]


def test_who_cannot_be_asked_for_less_is_asked_once(blip, photo, monkeypatch):
    calls = []
    captioner = Captioner(*blip)
    monkeypatch.setattr(
        captioner.model, "generate", lambda **kwargs: calls.append(1) or torch.tensor([[5, 30, 40, 50]])
    )
    assert len(describe(captioner, photo, shorter_than(12)).split()) < 3 and calls == [1]
    assert describe(lambda image: calls.append(1) or "a dog and a cat", photo, shorter_than(6)) == "a dog"
    assert calls == [1, 1]
    assert describe(str, photo, shorter_than(3)) == ""  # which does not tell its arguments


# Encoding


@pytest.fixture
def encoder_with(encoder):
    def make(captioner):
        pipeline = RSICEncoderPipeline(**{**encoder.components, "captioner": captioner})
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return make


@pytest.mark.parametrize("model", ["llava", "blip"])
def test_the_bytes_are_respected(request, encoder_with, small_photo, model):
    answer = cache(partial(Captioner(*request.getfixturevalue(model)), small_photo))
    pipeline = encoder_with(lambda image, prompt=None: answer(prompt))
    answers = [" ".join(answer(prompt).split()) for prompt in (None, SHORT_PROMPT)]
    lengths = []
    for caption_bytes in (60, 25, 9, 0):
        out = pipeline(small_photo, caption_bytes=caption_bytes)
        file = Bitstream.from_bytes(out.bitstream)
        payload = encode_caption(file.caption)[1]
        assert out.caption == file.caption and len(payload) <= caption_bytes
        # A beginning of one of the two answers, that ends where a word does.
        rests = [one[len(out.caption) :] for one in answers if one.startswith(out.caption)]
        assert rests and (not out.caption or any(not rest[:1].isalnum() for rest in rests))
        lengths.append(len(out.caption))
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > 30 and lengths[-1] == 0


def test_the_tokens_are_respected(encoder, encoder_with, small_photo, llava):
    def tokens(text):
        return len(encoder.tokenizer(text, truncation=False).input_ids)

    sentences = "A man rides a brown horse along the beach at sunset. " * 12
    out = encoder_with(lambda image: sentences)(small_photo, caption_bytes=1000)
    assert sentences.startswith(out.caption) and out.caption.endswith("sunset.")
    assert tokens(out.caption) <= 77 < tokens(out.caption + " " + sentences[:52])
    words = "horse " * 300
    out = encoder_with(lambda image: words)(small_photo, caption_bytes=1000)
    assert tokens(out.caption) <= 77 < tokens(out.caption + " horse")
    out = encoder_with(Captioner(*llava, max_new_tokens=200))(small_photo, caption_bytes=1000)
    assert 40 < tokens(out.caption) <= 77

    bare = encoder_with(lambda image: "word " * 5000)
    bare.tokenizer = None
    assert 4000 < len(bare(small_photo, caption_bytes=5000).caption) <= 4096


def test_the_codec_counts(encoder_with, small_photo):
    pipeline = encoder_with(lambda image: "a man riding a horse on the beach at sunset with a dog and a red kite")
    auto = pipeline(small_photo, caption_bytes=20).caption
    raw = pipeline(small_photo, caption_bytes=20, caption_codec="raw").caption
    assert raw == "a man riding a horse" and len(auto) > len(raw)


def test_a_caption_of_the_user_wins(encoder, encoder_with, photo, small_photo):
    asked = []
    pipeline = encoder_with(lambda image: asked.append(image.size) or "a generated caption")
    long = (
        "a caption of the user's own that has more than the sixty bytes that are for captions of the captioner, xyzzy"
    )
    assert pipeline(small_photo, caption=long).caption == long
    assert pipeline(small_photo, caption="").caption == "" and asked == []
    images = [small_photo, small_photo, photo.crop((0, 0, 100, 90)), small_photo]
    out = pipeline(images, caption=["a dog", None, None, ""])
    assert out.caption == ["a dog", "a generated caption", "a generated caption", ""]
    assert asked == [(203, 165), (100, 90)]
    assert [Bitstream.from_bytes(data).caption for data in out.bitstream] == out.caption
    assert pipeline(images[:2]).caption == ["a generated caption"] * 2
    assert encoder(small_photo).caption == ""


def test_every_kind_of_image_reaches_the_captioner_as_a_picture(encoder_with, small_photo):
    import numpy as np

    seen = []
    pipeline = encoder_with(lambda image: seen.append(image) or "a dog")
    array = np.asarray(small_photo, np.float32) / 255
    for image in (small_photo, array, torch.from_numpy(array).permute(2, 0, 1)):
        pipeline(image)
    pipeline(small_photo, max_side=128)  # the captioner sees the photo, not what is coded of it
    assert all(image.mode == "RGB" and image.tobytes() == small_photo.tobytes() for image in seen) and len(seen) == 4


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"box": (0, 0, 9999, 9)}, "outside the picture"),
        ({"weight": 2}, "weight"),
        ({"caption_codec": "lzma"}, "caption_codec must be"),
        ({"caption_bytes": -1}, "caption_bytes must be a whole number"),
        ({"caption_bytes": 60.5}, "caption_bytes must be a whole number"),
        ({"caption": 5}, "A caption must be a string"),
        ({"caption": []}, "A caption must be a string"),
    ],
)
def test_bad_input_is_refused_before_the_captioner_is_asked(encoder_with, small_photo, arguments, message):
    def captioner(image):
        raise AssertionError("asked")

    with pytest.raises(ValueError, match=message):
        encoder_with(captioner)(small_photo, **arguments)


def test_what_is_no_captioner(encoder_with, small_photo, llava, encoder):
    for captioner, message in [
        (llava[0], "A LlavaForConditionalGeneration alone can not caption; give Captioner"),
        (CLIPConfig(), "must be a Captioner or a function .* got CLIPConfig"),
        (lambda image: None, "returned NoneType; it must return a string"),
        (lambda image: ["a dog"], "returned list"),
    ]:
        with pytest.raises(ValueError, match=message):
            encoder_with(captioner)(small_photo)
        assert encoder_with(captioner)(small_photo, caption="a dog").caption == "a dog"
    with pytest.raises(ValueError, match=r"CLIPModel \(type clip\) has no chat template"):
        Captioner(CLIPModel(tiny_clip()), None)


def tiny_clip():
    return CLIPConfig(text_config={**LAYERS, "vocab_size": 99}, vision_config={**LAYERS, "image_size": 28})


def test_models_of_another_kind_are_refused(tmp_path, blip, llava_folder, monkeypatch):
    clip = tmp_path / "clip"
    CLIPModel(tiny_clip()).save_pretrained(clip)
    with pytest.raises(ValueError, match="clip is a CLIPModel, which writes no captions; give LLaVA"):
        Captioner.from_pretrained(clip)

    matcher = tmp_path / "matcher"
    save((BlipForImageTextRetrieval(blip[0].config), blip[1]), matcher)
    with pytest.raises(ValueError, match="lack .* tensors of a BlipForConditionalGeneration, text_decoder"):
        Captioner.from_pretrained(matcher)

    def needs_package(*args, **kwargs):
        raise ImportError("Package `num2words` is required.")

    monkeypatch.setattr(captioners.AutoProcessor, "from_pretrained", needs_package)
    with pytest.raises(ValueError, match="llava.* needs a package that is not installed .*num2words"):
        Captioner.from_pretrained(llava_folder)


def test_a_pipeline_is_saved_without_its_captioner(encoder_with, small_photo, tmp_path, llava):
    encoder_with(Captioner(*llava)).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["captioner"] == [None, None]
    captioner = Answers("a dog")
    pipeline = RSICEncoderPipeline.from_pretrained(tmp_path, captioner=captioner)
    assert pipeline(small_photo).caption == "a dog"
    assert RSICEncoderPipeline.from_pretrained(tmp_path).captioner is None


# What is said before a download


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Let the Hub list files of these sizes, and the cache hold what is in `cached`."""

    def pretend(sizes, cached=()):
        def model_info(self, name, revision=None, token=None, files_metadata=False):
            assert files_metadata
            siblings = [SimpleNamespace(rfilename=file, size=size) for file, size in sizes.items()]
            return SimpleNamespace(siblings=siblings, sha="c0ffee")

        def look_up(name, file, cache_dir=None, revision=None):
            assert revision == "c0ffee"
            return f"cache/{file}" if file in cached else None

        monkeypatch.setattr(captioners.HfApi, "model_info", model_info)
        monkeypatch.setattr(captioners, "try_to_load_from_cache", look_up)

    return pretend


SHARDS = {f"model-0000{i}-of-00003.safetensors": 5_000_000_000 for i in (1, 2, 3)}


@pytest.mark.parametrize(
    "files, cached, size",
    [
        ({"model.safetensors": 7, "pytorch_model.bin": 9, "tf_model.h5": 5, "onnx/model.safetensors": 3}, [], 7),
        ({**SHARDS, "model.safetensors.index.json": 9, "README.md": 1, "consolidated.safetensors": 9}, [], 15 * 10**9),
        (SHARDS, list(SHARDS)[:1], 10 * 10**9),
        (SHARDS, list(SHARDS), 0),
        ({"pytorch_model.bin": 9, "model.fp16.safetensors": 4}, [], 9),
        ({"pytorch_model-00001-of-00002.bin": 9, "pytorch_model-00002-of-00002.bin": 2}, [], 11),
        ({"model.safetensors": None}, [], 0),
        ({"config.json": 2}, [], 0),
    ],
)
def test_only_weights_that_will_be_fetched_count(hub, files, cached, size):
    hub({"config.json": 1, **files}, cached)
    assert download_size("org/model") == size


def test_nothing_is_asked_about_a_folder_and_nothing_fails_offline(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(captioners.HfApi, "model_info", offline)
    assert download_size(tmp_path) == download_size("org/model") == 0


def test_the_size_is_said_before_the_weights_are_fetched(hub, llava_folder, photo, monkeypatch, capsys):
    hub(SHARDS)
    real = captioners.AutoModelForImageTextToText.from_pretrained

    def fetch(name, **kwargs):
        assert "Downloading org/llava: 15.0 GB of weights." in capsys.readouterr().err
        return real(llava_folder, **kwargs)

    monkeypatch.setattr(captioners.AutoModelForImageTextToText, "from_pretrained", fetch)
    for auto in (captioners.AutoConfig, captioners.AutoProcessor):
        monkeypatch.setattr(
            auto, "from_pretrained", lambda name, load=auto.from_pretrained, **kwargs: load(llava_folder, **kwargs)
        )
    assert Captioner.from_pretrained("org/llava")(photo)


# The command line


def rsic(*arguments):
    return main([str(argument) for argument in arguments])


def test_command_line(llava_folder, llava, small_photo, tmp_path, capsys, encoder_with):
    photo, output = tmp_path / "photo.png", tmp_path / "photo.rsic"
    small_photo.save(photo)
    assert rsic("encode", photo, "-o", output, "--captioner", llava_folder) == 0
    expected = encoder_with(Captioner(*llava))(small_photo).caption
    assert Bitstream.read(output).caption == expected != ""
    assert rsic("encode", photo, "-o", output, "--captioner", llava_folder, "--caption-bytes", 20) == 0
    assert len(encode_caption(Bitstream.read(output).caption)[1]) <= 20
    # A caption given, or none: there is no captioner to load.
    assert rsic("encode", photo, "-o", output, "--captioner", tmp_path / "no such", "--caption", "") == 0
    assert Bitstream.read(output).caption == ""
    capsys.readouterr()
    assert rsic("encode", photo, "-o", output, "--captioner", tmp_path, "--caption-bytes", 20) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_command_line_folder(llava_folder, small_photo, tmp_path):
    photos, output = tmp_path / "photos", tmp_path / "files"
    photos.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        small_photo.save(photos / name)
    (tmp_path / "demands.json").write_text(json.dumps({"a.png": {"caption": "a woman"}, "b.png": {"caption": ""}}))
    listed = ("--demands", tmp_path / "demands.json")
    assert rsic("encode", photos, "-o", output, "--captioner", llava_folder, *listed) == 0
    captions = [Bitstream.read(output / f"{name}.rsic").caption for name in "abc"]
    assert captions[:2] == ["a woman", ""] and captions[2] != ""
