"""Captions by vision-language models: random LLaVA, SmolVLM (as Idefics3) and BLIP."""

import copy

import pytest
import torch
import transformers
from tiny_captioners import CHAT_TEMPLATE, LAYERS, PLAIN, save
from transformers import BlipForImageTextRetrieval, CLIPConfig, CLIPModel

from rsic_diffusers import Captioner
from rsic_diffusers.description.captioners import SHORT_PROMPT
from rsic_diffusers.description.shortening import sentence_ends, word_ends


def by_hand(model, processor, number, **inputs):
    """The first tokens of an answer, without the question."""
    inputs = processor(**inputs, return_tensors="pt")
    with torch.no_grad():
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=number)[0]
    return tokens[inputs["input_ids"].shape[1] :] if "input_ids" in inputs else tokens


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


def test_what_is_no_captioner(encoder_with, small_photo, llava, encoder):
    for captioner, message in [
        (llava[0], "A LlavaForConditionalGeneration alone cannot caption; give Captioner"),
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

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", needs_package)
    with pytest.raises(ValueError, match="llava.* needs a package that is not installed .*num2words"):
        Captioner.from_pretrained(llava_folder)
