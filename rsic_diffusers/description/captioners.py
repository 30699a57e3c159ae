"""GDE, global description encoding (paper, section II-A): a vision-language model describes a photo."""

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import torch
from huggingface_hub import HfApi, try_to_load_from_cache

from ..torch_state import loading_alone
from .shortening import cut_sentences, cut_within_sentence, longest_prefix, sentence_ends, word_ends


PROMPT = "Please describe this image to convey all semantic information."  # the paper's
SHORT_PROMPT = "Describe this image in one short sentence."
MAX_NEW_TOKENS = 96  # more than the 77 that Stable Diffusion's text encoder reads
IMAGE_ONLY = ("blip", "git")  # types of models that caption an image without being asked
EXPECTED = "LLaVA, another image-text-to-text model of transformers with a chat template (SmolVLM, ...), or BLIP"


class Captioner:
    """A vision-language model of transformers as a function from an image to a caption.

    Models with a chat template are asked through it, LLaVA without one by "USER: <image> ... ASSISTANT:", and BLIP and
    GIT are shown the image alone. Generation is greedy, so a model describes an image in the same words each time.

    It is not a `torch.nn.Module`, so `save_pretrained` of a pipeline leaves it out. `to` of a pipeline takes it along;
    while the pipeline is offloaded it runs on the CPU, unless it was loaded to a device of its own.

    Args:
        model ([`PreTrainedModel`]): Of an image-text-to-text class.
        processor ([`ProcessorMixin`]): The model's.
        prompt (`str`): What to ask; the paper's by default. BLIP and GIT do not read it.
        max_new_tokens (`int`): Bound on the answer's length, in the model's tokens. An answer that reaches it is cut
            to its whole sentences, or whole words.
        follows_pipeline (`bool`): Move to a pipeline's device with it.

    Raises:
        ValueError: The model is of another kind.
    """

    def __init__(
        self,
        model,
        processor,
        prompt: str = PROMPT,
        max_new_tokens: int = MAX_NEW_TOKENS,
        follows_pipeline: bool = True,
    ):
        self.follows_pipeline = follows_pipeline
        self.model, self.processor = model.eval(), processor
        self.prompt, self.max_new_tokens = prompt, max_new_tokens
        self.has_chat_template = getattr(processor, "chat_template", None) is not None
        kind = model.config.model_type
        self.takes_prompt = self.has_chat_template or kind not in IMAGE_ONLY
        if self.takes_prompt and not self.has_chat_template and "llava" not in kind:
            raise ValueError(
                f"{type(model).__name__} (type {kind}) has no chat template, so it is not known how to ask it for a "
                f"caption; give {EXPECTED}, or a function (image) -> str."
            )

    @classmethod
    @loading_alone()
    def from_pretrained(
        cls, name, dtype="auto", device=None, prompt: str = PROMPT, max_new_tokens: int = MAX_NEW_TOKENS, **kwargs
    ) -> "Captioner":
        """Load from a folder or the Hub; the size of the download is printed on stderr first.

        Args:
            name (`str` or path): A folder or Hub id.
            dtype (`torch.dtype`): Of the weights; by default as they were saved.
            device (*optional*): Where the model is and stays. By default it is loaded to the CPU, and follows the
                pipeline that it is given to.
            prompt (`str`), max_new_tokens (`int`): As above.
            kwargs: Of transformers' `from_pretrained`, for model and processor: revision, token, cache_dir, ...

        Raises:
            ValueError: A model of another kind, weights that lack tensors, a package that the model needs.
            OSError: There is no such model, or no way to it.
        """
        import transformers  # takes long, and encoding without a captioner needs none of it

        config = transformers.AutoConfig.from_pretrained(name, **kwargs)
        if type(config) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            what = (config.architectures or [config.model_type])[0]
            raise ValueError(f"{name} is a {what}, which writes no captions; give {EXPECTED}.")
        try:
            processor = transformers.AutoProcessor.from_pretrained(name, **kwargs)
        except ImportError as error:  # SmolVLM's asks for num2words
            raise ValueError(f"{name} needs a package that is not installed ({error}).") from None
        size = download_size(name, **{key: kwargs[key] for key in ("revision", "token", "cache_dir") if key in kwargs})
        if size:
            print(f"Downloading {name}: {size / 1e9:.1f} GB of weights.", file=sys.stderr)
        model, report = transformers.AutoModelForImageTextToText.from_pretrained(
            name, dtype=dtype, output_loading_info=True, **kwargs
        )
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            raise ValueError(
                f"The weights of {name} lack {len(missing)} tensors of a {type(model).__name__}, {missing[0]} for "
                f"example, so it cannot caption; give {EXPECTED}."
            )
        return cls(model.to(device or "cpu"), processor, prompt, max_new_tokens, follows_pipeline=device is None)

    def to(self, device) -> "Captioner":
        self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, image: PIL.Image.Image, prompt: str | None = None) -> str:
        """Describe an image.

        Args:
            image (`PIL.Image.Image`): Of any size.
            prompt (`str`, *optional*): Asks something else this time.
        """
        inputs = self._ask(image.convert("RGB"), prompt or self.prompt).to(self.model.device, self.model.dtype)
        tokens = self.model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self.max_new_tokens)[0]
        asked = inputs.get("input_ids")
        if asked is not None and torch.equal(tokens[: asked.shape[1]], asked[0]):
            tokens = tokens[asked.shape[1] :]  # decoders repeat the question
        text = self.processor.decode(tokens, skip_special_tokens=True).strip()
        if len(tokens) < self.max_new_tokens:
            return text
        # Stopped by the bound, perhaps within a word.
        return longest_prefix(text, sentence_ends(text)) or longest_prefix(text, word_ends(text)[:-1])

    def _ask(self, image, prompt):
        """Make the model's inputs, for one image."""
        if not self.takes_prompt:
            return self.processor(images=image, return_tensors="pt")
        if self.has_chat_template:
            content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
            return self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        text = f"USER: {self.processor.image_token}\n{prompt} ASSISTANT:"
        return self.processor(images=image, text=text, return_tensors="pt")


def check_captioner(captioner) -> None:
    """Raise a `ValueError` for a captioner that cannot be called with an image."""
    import transformers

    if isinstance(captioner, transformers.PreTrainedModel):
        raise ValueError(
            f"A {type(captioner).__name__} alone cannot caption; give Captioner(model, processor), or "
            "Captioner.from_pretrained(...)."
        )
    if not callable(captioner):
        raise ValueError(
            f"The captioner must be a Captioner or a function (image) -> str, got {type(captioner).__name__}."
        )


def describe(captioner: Callable, image: PIL.Image.Image, fits: Callable[[str], bool]) -> str:
    """Ask for a caption, and shorten it until it fits.

    Of an answer that is too long, as many whole sentences are kept as fit. If not even the first sentence fits, the
    captioner is asked for a single short sentence; what still does not fit is cut at a clause, or else at a word.

    Args:
        captioner: A [`Captioner`], or any callable (image) -> str. If it has an argument `prompt`, it can be asked for
            a shorter answer.
        image (`PIL.Image.Image`): The photo, RGB.
        fits (`Callable`): Whether a caption is short enough.

    Returns:
        `str`: The caption, with single spaces between words. Empty if not even one word fits.

    Raises:
        ValueError: The captioner did not return a string.
    """
    answer = _answer(captioner, image)
    caption = cut_sentences(answer, fits)
    if not caption and answer and _takes_prompt(captioner):
        answer = _answer(captioner, image, prompt=SHORT_PROMPT) or answer
        caption = cut_sentences(answer, fits)
    return caption or cut_within_sentence(answer, fits)


def _answer(captioner, image, **prompt) -> str:
    answer = captioner(image, **prompt)
    if not isinstance(answer, str):
        raise ValueError(
            f"The captioner returned {type(answer).__name__}; it must return a string that describes the image."
        )
    return " ".join(answer.split())


def _takes_prompt(captioner) -> bool:
    if isinstance(captioner, Captioner):
        return captioner.takes_prompt
    try:
        return "prompt" in inspect.signature(captioner).parameters
    except ValueError:  # some built-in callables have none
        return False


def download_size(name, revision=None, token=None, cache_dir=None) -> int:
    """Bytes of weights that loading a model would download: 0 for a folder, for cached files, or offline."""
    if Path(name).is_dir():
        return 0
    try:
        info = HfApi().model_info(str(name), revision=revision, token=token, files_metadata=True)
    except Exception:
        return 0  # loading says better what is wrong, or succeeds from the cache
    sizes = {file.rfilename: file.size or 0 for file in info.siblings}
    weights = []
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):  # in transformers' order
        whole = f"{stem}.{suffix}"
        shards = [file for file in sizes if re.fullmatch(rf"{stem}-\d{{5}}-of-\d{{5}}\.{suffix}", file)]
        weights = weights or ([whole] if whole in sizes else shards)

    def is_cached(file):
        return isinstance(try_to_load_from_cache(name, file, cache_dir=cache_dir, revision=info.sha), str)

    return sum(sizes[file] for file in weights if not is_cached(file))
