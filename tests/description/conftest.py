"""Random captioners, small enough to be made for each run."""

import copy
import re

import pytest
import torch
from tiny_captioners import CHAT_TEMPLATE, LAYERS, LLAMA, save
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from rsic_diffusers import RSICEncoderPipeline
from rsic_diffusers.bitstream.caption_coding import caption_dictionary


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def llava_folder(llava, tmp_path_factory):
    return save(llava, tmp_path_factory.mktemp("llava"))


@pytest.fixture
def encoder_with(encoder):
    def make(captioner):
        pipeline = RSICEncoderPipeline(**{**encoder.components, "captioner": captioner})
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return make
