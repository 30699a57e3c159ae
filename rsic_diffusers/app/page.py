"""The page: its controls, and what happens when they are used."""

import functools
import html
import logging
from pathlib import Path

import gradio as gr
import torch
from gradio_image_annotation import image_annotator
from PIL import EpsImagePlugin, Image

from ..bitstream.caption_coding import DEFAULT_CAPTION_BYTES, DEFAULT_CAPTION_CODEC
from ..bitstream.weight_map import DEFAULT_BACKGROUND, DEFAULT_WEIGHT
from ..description.caption_checks import fits_in_file
from ..description.captioners import describe
from ..error_sentences import plain_sentence
from ..example_photo import BOX, CAPTION, example_path
from ..files import write_file
from ..metadata import save_picture
from . import inputs, work
from .limits import (
    KEEP_SECONDS,
    MAX_BOXES,
    MAX_CAPTION_CHARACTERS,
    MAX_PHOTO_PIXELS,
    MAX_UPLOAD_BYTES,
    QUEUE_LENGTH,
    SWEEP_SECONDS,
)


logger = logging.getLogger(__name__)

TITLE = "RSIC: a photo in a few hundred bytes"
INTRODUCTION = """# A photo in a few hundred bytes
Mark what must stay true to the photo. The bytes go there; the rest is *imagined* by a diffusion model. Decoded
pictures say which is which.

Model: {model}."""
EXAMPLE_BOX = dict(zip(("xmin", "ymin", "xmax", "ymax"), BOX, strict=True))
BOX_COLOUR = "rgb(255, 196, 0)"  # as the annotator itself sends it
WEIGHT, BACKGROUND = round(DEFAULT_WEIGHT, 2), round(DEFAULT_BACKGROUND, 2)
PROGRESS = gr.Progress()  # gradio looks for it among the defaults of a function
STYLE = Path(__file__).with_name("style.css")


def build_page(encoder, decoder, model: str = "rsic-tiny") -> gr.Blocks:
    """Make the page.

    Args:
        encoder ([`RSICEncoderPipeline`]): With a referring model, the page has a field for a phrase; with a captioner,
            a button that describes the photo.
        decoder ([`RSICDecoderPipeline`]).
        model (`str`): Its name, which the page shows.
    """
    guard_pillow()
    results = work.Results()
    results.keep_clean()
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEEP_SECONDS)) as page:
        gr.Markdown(INTRODUCTION.format(model=html.escape(model)))
        with gr.Tabs():
            with gr.Tab("Encode"):
                _encode_tab(encoder, decoder, results)
            with gr.Tab("Decode"):
                _decode_tab(decoder, results)
    # One piece of work at a time: the pipelines are shared, and two would take twice as long each.
    return page.queue(max_size=QUEUE_LENGTH, default_concurrency_limit=1)


def guard_pillow() -> None:
    """Bounds for what gradio opens by itself, which is what visitors draw on."""
    Image.MAX_IMAGE_PIXELS = MAX_PHOTO_PIXELS  # Pillow refuses what has more than twice as many
    EpsImagePlugin.gs_binary = False


def launch(page: gr.Blocks, host: str | None = None, port: int | None = None, wait: bool = True):
    """Serve the page.

    Args:
        page: Of `build_page`.
        host (`str`, *optional*): Address to listen on; the loopback interface by default, which only this computer
            reaches (or what gradio's GRADIO_SERVER_NAME says, as on a Hugging Face Space).
        port (`int`, *optional*): The first free one from 7860 by default.
        wait (`bool`): Return only when the server is stopped.

    Returns:
        `str`: The page's address on this computer.
    """
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        prevent_thread_lock=not wait,
        max_file_size=MAX_UPLOAD_BYTES,
        footer_links=[],
        css_paths=STYLE,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    )
    return address


def in_a_sentence(function):
    """Show what goes wrong in `function` to the visitor as one sentence; the server's log has the rest."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except ValueError as error:  # what the visitor gave; the sentence says what is wrong with it
            sentence = plain_sentence(error)
        except Exception as error:
            logger.exception("An event of the page failed.")
            sentence = "Something went wrong on the server; its log says what."
            if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
                sentence = "The server ran out of memory; try a smaller photo."
        raise gr.Error(html.escape(sentence, quote=False), duration=None, print_exception=False)

    return call


def _encode_tab(encoder, decoder, results) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            example = gr.Button("Take the example", size="sm", elem_id="example")
            photo, annotated, typed, editor, paint_weight, box_weights = _photo_controls(results)
            phrase, caption, weight, *settings = _settings_controls(encoder, photo)
            button = gr.Button("Encode", variant="primary", elem_id="encode")
        with gr.Column(min_width=300):
            view = _View("Left the original, right the decoded picture", with_original=True)
            bar = gr.HTML()
            file = gr.DownloadButton("Download the .rsic file", interactive=False, elem_id="download-file")
            picture_button = gr.DownloadButton("Download the picture", interactive=False, elem_id="download-picture")
            others = gr.Gallery(label="Others of as many bytes", visible=False, columns=2, object_fit="contain")

    hidden = {"api_name": False, "show_progress": "hidden", "queue": False}
    example.click(in_a_sentence(lambda: (_copied_example(results), CAPTION)), None, [photo, caption], **hidden)
    weights = [*box_weights, paint_weight]
    weight.change(lambda value: [value] * len(weights), weight, weights, **hidden)

    def run(
        photo,
        annotated,
        typed,
        editor,
        paint_weight,
        phrase,
        caption,
        weight,
        background,
        has_budget,
        budget,
        refines,
        comparisons,
        progress=PROGRESS,
        *box_weights,
    ):
        picture = inputs.read_photo(photo)
        sizes = picture.size, inputs.upright_photo_size(photo)
        demands = inputs.collect(annotated, box_weights, typed, editor, paint_weight, phrase, weight, *sizes)
        if has_budget and budget is None:
            raise ValueError("The budget is empty; give a number of bytes, or keep to none.")
        # At its default the slider gives way to demands that would not stand out against it.
        background = None if background == BACKGROUND else background
        settings = work.Settings(
            caption or "", weight, background, budget if has_budget else None, refines, comparisons
        )
        result = work.encode(encoder, decoder, picture, demands, settings, results.new_folder(), progress)
        return {
            **view.show(result),
            bar: result.bar,
            file: gr.DownloadButton(value=str(result.file), interactive=True),
            picture_button: gr.DownloadButton(value=str(result.decoded), interactive=True),
            others: gr.Gallery(value=result.comparisons, visible=bool(result.comparisons)),
        }

    button.click(
        in_a_sentence(run),
        [photo, annotated, typed, editor, paint_weight, phrase, caption, weight, *settings, *box_weights],
        [*view.outputs, bar, file, picture_button, others],
        api_name="encode",
        show_progress_on=view.slider,
        concurrency_id="model",
    )


def _photo_controls(results):
    """The photo and what is marked on it."""
    photo = gr.File(label="Photo (JPEG, PNG, WebP, ...)", height=120, elem_id="photo")
    with gr.Tabs(visible=False) as marks:
        with gr.Tab("Boxes"):
            gr.Markdown("Draw boxes around what must stay true.")
            annotated = image_annotator(
                label="Boxes on the photo",
                show_label=False,
                sources=[],
                image_type="pil",  # a path would be that of a copy which nobody removes
                disable_edit_boxes=True,
                show_download_button=False,
                show_clear_button=False,
                show_remove_button=True,
                boxes_alpha=0.15,
                elem_id="annotator",
            )
            box_weights = [
                gr.Slider(0, 1, WEIGHT, step=0.01, label=f"Fidelity of box {i + 1}", visible=False, interactive=True)
                for i in range(MAX_BOXES)
            ]
            with gr.Accordion("Boxes as numbers", open=False):
                typed = gr.Textbox(
                    label="One box a line, in pixels of the photo: left,top,right,bottom or "
                    "left,top,right,bottom:fidelity",
                    placeholder="120,40,300,300",
                    lines=2,
                )
        with gr.Tab("Brush"):
            gr.Markdown("Paint over what must stay true.")
            editor = gr.ImageEditor(
                label="Paint on the photo",
                show_label=False,
                type="pil",
                sources=[],
                transforms=[],
                layers=False,
                brush=gr.Brush(colors=["#ffc400"], default_size=40, color_mode="fixed"),
                buttons=[],
            )
            paint_weight = gr.Slider(0, 1, WEIGHT, step=0.01, label="Fidelity of what is painted")

    def show(path):
        if not path:
            return None, "", None, gr.Tabs(visible=False)
        picture = inputs.read_photo(path)
        shown = results.new_folder() / "photo.webp"
        save_picture(picture, shown)
        if inputs.upright_photo_size(path) != picture.size:
            gr.Info(
                f"The page works at {picture.width} x {picture.height} pixels; the command line has no such limit."
            )
        is_example = Path(path).read_bytes() == example_path().read_bytes()
        boxes = [{**EXAMPLE_BOX, "color": BOX_COLOUR, "label": ""}] if is_example else []
        return {"image": str(shown), "boxes": boxes}, "", str(shown), gr.Tabs(visible=True)

    def show_weights(annotated):
        count = len(inputs.drawn_boxes(annotated))
        return [gr.Slider(visible=i < count) for i in range(MAX_BOXES)]

    photo.change(
        in_a_sentence(show), photo, [annotated, typed, editor, marks], api_name="show_photo", concurrency_limit=4
    )
    annotated.change(
        in_a_sentence(show_weights),
        annotated,
        box_weights,
        api_name=False,
        show_progress="hidden",
        concurrency_limit=2,  # gradio decodes the photo for each
    )
    return photo, annotated, typed, editor, paint_weight, box_weights


def _copied_example(results) -> str:
    """The path of a copy of the example, since gradio serves no files of installed packages."""
    copy = results.new_folder() / "example.jpg"
    write_file(copy, example_path().read_bytes())
    return str(copy)


def _settings_controls(encoder, photo) -> list:
    """Phrase, caption, fidelity, background, budget switch and bytes, refinement, comparisons."""
    phrase = gr.Textbox(
        label="What must stay true, in words",
        placeholder="the lighthouse",
        visible=encoder.referring_model is not None,
    )
    caption = gr.Textbox(
        label="Caption",
        info="What the photo shows; the rest is imagined by it.",
        max_length=MAX_CAPTION_CHARACTERS,
        elem_id="caption",
    )
    if encoder.captioner is not None:
        fits = functools.partial(
            fits_in_file,
            tokenizer=encoder.tokenizer,
            max_bytes=DEFAULT_CAPTION_BYTES,
            codec=DEFAULT_CAPTION_CODEC,
        )
        button = gr.Button("Describe it", size="sm")
        button.click(
            in_a_sentence(lambda path: describe(encoder.captioner, inputs.read_photo(path), fits)),
            photo,
            caption,
            api_name="describe",
            concurrency_id="model",
        )
    weight = gr.Slider(
        0,
        1,
        WEIGHT,
        step=0.01,
        label="Quality",
        info="Fidelity M of what is marked, or of the whole photo if nothing is.",
        elem_id="quality",
    )
    background = gr.Slider(0, 1, BACKGROUND, step=0.01, label="Background", info="Fidelity M of what is not marked.")
    has_budget = gr.Checkbox(label="Keep to a budget of bytes; qualities are moved up or down to meet it")
    budget = gr.Number(600, label="Bytes", precision=0, visible=False)
    has_budget.change(
        lambda on: gr.Number(visible=on), has_budget, budget, api_name=False, queue=False, show_progress="hidden"
    )
    refines = gr.Checkbox(label="Refine: slower, better where marked")
    comparisons = gr.CheckboxGroup(list(work.COMPARISONS), label="Compare, at as many bytes, with")
    return [phrase, caption, weight, background, has_budget, budget, refines, comparisons]


def _decode_tab(decoder, results) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            source = gr.File(label="An .rsic file", height=120, elem_id="rsic-file")
            button = gr.Button("Decode", variant="primary", elem_id="decode")
            caption = gr.Textbox(label="Caption in the file", interactive=False, elem_id="decoded-caption")
        with gr.Column(min_width=300):
            view = _View("Decoded picture", with_original=False)
            picture = gr.DownloadButton("Download the picture", interactive=False)

    def run(path, progress=PROGRESS):
        _, data = inputs.read_file(path)
        result = work.decode(decoder, data, results.new_folder(), progress)
        return {
            **view.show(result),
            caption: result.caption,
            picture: gr.DownloadButton(value=str(result.decoded), interactive=True),
        }

    button.click(
        in_a_sentence(run),
        source,
        [*view.outputs, caption, picture],
        api_name="decode",
        show_progress_on=view.slider,
        concurrency_id="model",
    )


class _View:
    """A result's picture, with a switch for the overlay of M and, beside the original, a divider."""

    def __init__(self, label: str, with_original: bool):
        self.with_original = with_original
        name = "encoded" if with_original else "decoded"
        gr.Markdown(f"{label}.")
        if with_original:
            self.slider = gr.ImageSlider(label=label, show_label=False, buttons=["fullscreen"], elem_id=f"{name}-view")
            divider = gr.Slider(0, 100, 50, step=1, label="Divider between original and decoded, in percent")
            divider.change(
                lambda percent: gr.ImageSlider(slider_position=percent),
                divider,
                self.slider,
                api_name=False,
                queue=False,
                show_progress="hidden",
            )
        else:
            self.slider = gr.Image(label=label, show_label=False, buttons=["fullscreen"], elem_id=f"{name}-view")
        self.switch = gr.Checkbox(
            label="Show what is imagined (grey and hatched)", elem_id=f"{name}-overlay", interactive=True
        )
        self.summary = gr.Markdown()
        self.paths = gr.State()
        self.outputs = [self.slider, self.switch, self.summary, self.paths]
        self.switch.change(
            self._picture, [self.paths, self.switch], self.slider, api_name=False, show_progress="hidden", queue=False
        )

    def _picture(self, paths, shows_overlay):
        if not paths:
            return None
        original, decoded, overlay = paths
        shown = overlay if shows_overlay else decoded
        return (original, shown) if self.with_original else shown

    def show(self, result: work.Result) -> dict:
        paths = (str(result.original), str(result.decoded), str(result.overlay))
        return {
            self.slider: self._picture(paths, False),
            self.switch: False,
            self.summary: result.summary,
            self.paths: paths,
        }
