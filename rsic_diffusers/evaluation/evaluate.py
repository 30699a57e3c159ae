"""The paper's tables on a folder of photos: files, pictures, figures, other codecs at as many bytes (`rsic evaluate`).

A photo goes through `encode` (to real files), `decode` (by a pipeline that knows only the files), `code_by_peers` and
`measure`; `report.py` makes tables and pictures of what they leave in the ledger.
"""

import platform
import shlex
import shutil
import sys
import time
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm import tqdm

from .. import HSVLC, RSICDecoderPipeline, RSICEncoderPipeline
from ..images import open_image
from ..pipelines.base_model import check_latent_space
from ..pipelines.pipeline_rsic_decoder import PAPER, PRESETS
from ..referring.demands import check_weight
from .equal_size import encode_at_size
from .ledger import Ledger
from .memory import watch_memory
from .methods import Method, ablations, own_methods
from .metrics import PICTURE_METRICS, SET_METRICS, load_available, load_picture_metrics, load_set_metrics
from .peers import DEFAULT_PEERS, PEERS, PeerUnavailable, load_external, load_peer
from .photos import Photo
from .report import write_report


LIBRARIES = ("torch", "diffusers", "transformers", "compressai", "numpy", "Pillow")
ENCODER_FIGURES = ("bytes", "bpp", "header", "caption", "map", "f0", "f1", "f2", "f3", "encode_seconds")
DECODER_FIGURES = ("decode_seconds", "unet_evaluations", "peak_memory")


@dataclass
class Evaluation:
    """
    Args:
        photos (`list[Photo]`): See [`read_photos`].
        output (`Path`): Folder for files, pictures and the ledger. What is there already is not made again.
        model (`str`): Folder, Hub id or embedded model.
        weights (`list[float]`): M in the region. The first is that of tables, presets and ablations; the others only
            add points to the curves.
        presets (`list[str | None]`): Of the decoder; None is the model's own settings. Ablations are of the first.
        with_ablations (`bool`): See [`ablations`].
        variants (`dict[str, dict]`): More rows: names, and arguments of the decoder over those of the first preset.
        single_layer (`str`, *optional*): Folder of a codec trained with `--single_layer`, for "without HSVLC".
        peers (`dict[str, Callable]`): Other codecs, see `peers/`.
        metrics (`dict[str, Callable]`): Of pictures, see [`load_picture_metrics`].
        by_phrase (`bool`): Refer by each photo's phrase rather than by its mask or box; what is measured stays those.
        referring_model (*optional*): Finds the phrases.
        max_side (`int`, *optional*), device, dtype (`torch.dtype`): As the pipelines take them.
        seed (`int`, *optional*): Of the decoder's noise; by default the file's own.
    """

    photos: list[Photo]
    output: Path
    model: str = "rsic-tiny"
    weights: list[float] = field(default_factory=lambda: [6 / 7])
    presets: list[str | None] = field(default_factory=lambda: [None])
    with_ablations: bool = False
    variants: dict = field(default_factory=dict)
    single_layer: str | None = None
    peers: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    by_phrase: bool = False
    referring_model: object = None
    max_side: int | None = 768
    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float32
    seed: int | None = None

    def __post_init__(self):
        self.weights, self.presets = list(dict.fromkeys(self.weights)), list(dict.fromkeys(self.presets))
        for weight in self.weights:
            check_weight("weight", weight)
        unknown = [preset for preset in self.presets if preset not in (None, *PRESETS)]
        if unknown:
            raise ValueError(f"There is no preset {', '.join(unknown)}; choose from {', '.join(PRESETS)}.")
        if self.by_phrase and (self.referring_model is None or not all(photo.phrase for photo in self.photos)):
            raise ValueError("To refer by phrase, give a referring model, and photos whose annotations hold phrases.")
        state = Accelerator()
        self.ledger = Ledger(self.output, state.process_index)
        self.mine = self.photos[state.process_index :: state.num_processes]
        self.is_main, self.wait = state.is_main_process, state.wait_for_everyone
        self.has_regions = any(photo.box or photo.mask_path for photo in self.photos)
        self.methods = own_methods(self.presets, self.has_regions)
        for name, arguments in self.variants.items():
            unknown = set(arguments) - {"preset", *PAPER}
            if unknown:
                raise ValueError(f"The decoder takes no {', '.join(unknown)}; variants may set {', '.join(PAPER)}.")
            arguments = {"preset": self.presets[0], **arguments}
            self.methods.append(Method(name, self.methods[0].encoding, arguments))
        if self.with_ablations:
            self.methods += ablations(self.presets[0], self.has_regions, self.single_layer is not None)

    def weights_of(self, method: Method) -> list[float]:
        return self.weights if method.on_curve else self.weights[:1]

    def file(self, photo: Photo, encoding: str, weight: float) -> Path:
        return self.output / "files" / _folder_name(encoding, weight) / f"{photo.name}.rsic"

    def picture(self, photo: Photo, method: str, weight: float) -> Path:
        return self.output / "pictures" / _folder_name(method, weight) / f"{photo.name}.png"

    def encode(self) -> None:
        """Photos to `.rsic` files."""
        wanted = [(method.encoding, weight) for method in self.methods for weight in self.weights_of(method)]
        if self.has_regions:  # files of global mode take the sizes of these
            wanted = [("referring", weight) for weight in self.weights] + wanted
        encoder = self._load(RSICEncoderPipeline, referring_model=self.referring_model)
        encoders = {"without HSVLC": self._with_single_layer(encoder)}
        for photo, (encoding, weight) in self._jobs("Encoding", dict.fromkeys(wanted)):
            region = photo.phrase if self.by_phrase else photo.box or str(photo.mask_path)
            settings = {"caption": photo.caption, "region": region}
            work = partial(self._make_file, encoders.get(encoding, encoder), photo, encoding, weight)
            self._once(photo, f"file, {encoding}", weight, settings, self.file(photo, encoding, weight), work)

    def _make_file(self, encoder, photo, encoding, weight, path) -> dict:
        image = photo.open()
        demand = photo.demand(image.size, self.by_phrase)
        if encoding == "without RGE":
            demand, weight = None, 0.0
        common = {"caption": "" if encoding == "without GDE" else photo.caption, "max_side": self.max_side}
        figures = {}
        if encoding == "global" and demand is not None:  # many tries, whose time says nothing
            out = encode_at_size(encoder, image, self.file(photo, "referring", weight).stat().st_size, **common)
        else:
            start = time.perf_counter()
            out = encoder(image, referring=demand, weight=weight, **common)
            figures["encode_seconds"] = time.perf_counter() - start
        out.save(path)
        return {"bytes": len(out.bitstream), "bpp": out.bpp, **out.breakdown, **figures}

    def decode(self) -> None:
        """Files to pictures, by a pipeline that was not there when the files were made."""
        decoder = self._load(RSICDecoderPipeline)
        decoders = {"without HSVLC": self._with_single_layer(decoder)}
        wanted = [(method, weight) for method in self.methods for weight in self.weights_of(method)]
        for photo, (method, weight) in self._jobs("Decoding", wanted):
            made = self._made_file(photo, method.encoding, weight)
            if not made:
                continue
            file = self.file(photo, method.encoding, weight)
            settings = decoder.default_settings(method.decoding.get("preset")) | method.decoding
            settings |= {"preset": None, "file": zlib.crc32(file.read_bytes()), "seed": self.seed}
            one_decoder = decoders.get(method.encoding, decoder)
            work = partial(self._make_picture, one_decoder, photo, weight, file, made, method.decoding, settings)
            self._once(photo, method.name, weight, settings, self.picture(photo, method.name, weight), work)

    def _make_picture(self, decoder, photo, weight, file, made, arguments, settings, path) -> dict:
        figures = {name: made[name] for name in ENCODER_FIGURES if name in made}
        for other in self.methods:  # with the same settings by another name
            same, picture = self._entry(photo, other.name, weight, settings), self.picture(photo, other.name, weight)
            if same and picture.exists():
                shutil.copy(picture, path)
                return figures | {name: same[name] for name in DECODER_FIGURES}
        generator = None if self.seed is None else torch.Generator("cpu").manual_seed(self.seed)
        with watch_memory(decoder.device) as peak:
            start = time.perf_counter()
            result = decoder(file, generator=generator, **arguments)
            seconds = time.perf_counter() - start
        result.images[0].save(path)
        return figures | {
            "decode_seconds": seconds,
            "unet_evaluations": result.num_unet_evaluations,
            "peak_memory": peak[0],
        }

    def code_by_peers(self) -> None:
        """Other codecs, at the bytes of the first method's files."""
        encoding = self.methods[0].encoding
        for photo, (name, weight) in self._jobs(
            "Other codecs", [(name, w) for name in self.peers for w in self.weights]
        ):
            made = self._made_file(photo, encoding, weight)
            if made:
                settings = {"num_bytes": made["bytes"]}
                work = partial(self._make_peer_picture, photo, name, made["bytes"])
                self._once(photo, name, weight, settings, self.picture(photo, name, weight), work)

    def _make_peer_picture(self, photo, name, num_bytes, path) -> dict:
        image = photo.open()
        result = self.peers[name](image, num_bytes, name=photo.name)
        result.image.save(path)
        return {
            "bytes": result.num_bytes,
            "bpp": 8 * result.num_bytes / (image.width * image.height),
            "fits": result.fits,
            "setting": result.setting,
            "encode_seconds": result.encode_seconds,
            "decode_seconds": result.decode_seconds,
        }

    def measure(self) -> None:
        """Pictures to figures; those that an earlier run measured stay."""
        names = [method.name for method in self.methods] + list(self.peers)
        wanted = [(name, weight) for name in names for weight in self.weights]
        for photo, (name, weight) in self._jobs("Measuring", wanted):
            entry = self.ledger.entries.get((photo.name, name, weight), {"error": "was not made"})
            missing = [metric for metric in self.metrics if metric not in entry]
            if "error" in entry or not missing:
                continue
            with self._noting_failure(photo, name, weight, entry["settings"]):
                image = photo.open()
                picture, region = open_image(self.picture(photo, name, weight)), photo.region(image.size)
                figures = {}
                for metric in missing:
                    kind = PICTURE_METRICS[metric]
                    if (region is None and kind.needs_region) or (not photo.caption and kind.needs_caption):
                        continue
                    figures[metric] = self.metrics[metric](picture, image, region=region, caption=photo.caption)
                self.ledger.add(photo.name, name, weight, entry["settings"], **figures)

    def measure_sets(self, distances: dict) -> list[dict]:
        """How far the pictures of each method, as a set, are from the photos.

        Args:
            distances (`dict[str, Callable]`): See [`load_set_metrics`].

        Returns:
            `list[dict]`: metric, method, weight, value, and how many pictures and crops went into it.
        """
        groups = {}
        for row in self.rows():
            groups.setdefault((row["method"], row["weight"]), []).append(row["photo"])
        by_name = {photo.name: photo for photo in self.photos}
        references = {}  # features of the photos, which most methods share
        results = []
        for (method, weight), names in tqdm(groups.items(), desc="Distances of sets", disable=not distances):
            for metric, distance in distances.items():
                key = metric, tuple(names)
                if key not in references:
                    references[key] = distance.extract(by_name[name].open() for name in names)
                features = distance.extract(open_image(self.picture(by_name[name], method, weight)) for name in names)
                result = {"metric": metric, "method": method, "weight": weight, "num_images": len(names)}
                result |= {"num_crops": len(features), "crop": distance.crop}
                try:
                    result["value"] = distance.between(features, references[key])
                except ValueError as error:  # too few crops
                    result["error"] = str(error)
                results.append(result)
        return results

    def rows(self) -> list[dict]:
        """The figures of every photo by every method and weight, in the order of the methods."""
        self.ledger.read()
        names = [method.name for method in self.methods] + list(self.peers)
        keys = [(photo.name, name, weight) for name in names for weight in self.weights for photo in self.photos]
        entries = [self.ledger.entries.get(key, {"error": "was not made"}) for key in keys]
        return [entry for entry in entries if "error" not in entry]

    def failures(self) -> list[str]:
        """What went wrong, a sentence each."""
        return [
            f"{entry['photo']}, {entry['method']}, M = {entry['weight']:.3f}: {entry['error']}"
            for entry in self.ledger.entries.values()
            if "error" in entry
        ]

    def _jobs(self, title: str, wanted):
        """(photo, one of what is wanted), photo by photo, with a progress bar."""
        wanted = list(wanted)
        jobs = [(photo, one) for photo in self.mine for one in wanted]
        return tqdm(jobs, desc=title, disable=not self.is_main)

    def _once(self, photo, method, weight, settings, path, work) -> None:
        """Do a piece of work that makes `path`, unless it was done before."""
        if path.exists() and self._entry(photo, method, weight, settings):
            return
        settings = self._settings(settings)
        with self._noting_failure(photo, method, weight, settings):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.ledger.add(photo.name, method, weight, settings, **work(path))

    def _settings(self, settings: dict) -> dict:
        return {"model": self.model, "dtype": str(self.dtype), "max_side": self.max_side, **settings}

    def _entry(self, photo, method, weight, settings) -> dict:
        return self.ledger.get(photo.name, method, weight, self._settings(settings))

    def _made_file(self, photo, encoding, weight) -> dict:
        """Figures of a file, {} if making it failed."""
        entry = self.ledger.entries.get((photo.name, f"file, {encoding}", weight), {})
        return {} if "error" in entry else entry

    @contextmanager
    def _noting_failure(self, photo, method, weight, settings):
        """One photo may fail in any way, and the others do not wait for it."""
        try:
            yield
        except Exception as error:
            message = " ".join(f"{error}".split()) or type(error).__name__
            self.ledger.add(photo.name, method, weight, settings, error=message)
            tqdm.write(f"{photo.name}, {method}: {message}", file=sys.stderr)

    def _load(self, pipeline_class, **components):
        pipeline = pipeline_class.from_pretrained(self.model, dtype=self.dtype, **components).to(self.device)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _with_single_layer(self, pipeline):
        if self.single_layer is None:
            return None
        codec = HSVLC.from_pretrained(self.single_layer).to(self.device)
        check_latent_space(pipeline.vae, codec)
        pipeline = type(pipeline)(**pipeline.components | {"hsvlc": codec})
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _folder_name(method: str, weight: float) -> str:
    return f"{method.replace(', ', '-').replace(' = ', '').replace(' ', '-')}-{weight:.3f}"


def evaluate(evaluation: Evaluation, metrics=None, codecs=None, external=(), num_sheets: int = 4) -> list[str]:
    """Do all of it, as far as it has not been done, and write the report.

    Args:
        evaluation ([`Evaluation`])
        metrics (`list[str]`, *optional*): Names of `PICTURE_METRICS` and `SET_METRICS`, or ["all"]; default: those
            that need no download.
        codecs (`list[str]`, *optional*): Names of `PEERS`; default: `DEFAULT_PEERS`.
        external (`list[tuple[str, Path]]`): Names and folders of what other codecs made.
        num_sheets (`int`)

    Returns:
        `list[str]`: What failed, a sentence each.
    """
    known = {**PICTURE_METRICS, **SET_METRICS}
    if metrics is None:
        metrics = [name for name, metric in known.items() if not metric.needs_download]
    names = list(known) if "all" in metrics else metrics
    evaluation.metrics, unavailable = load_available(
        load_picture_metrics, [name for name in names if name not in SET_METRICS], evaluation.device
    )
    distances, more = load_available(
        load_set_metrics, [name for name in names if name in SET_METRICS], evaluation.device
    )
    unavailable += more
    for name in DEFAULT_PEERS if codecs is None else codecs:
        try:
            evaluation.peers[PEERS[name].name] = load_peer(name)
        except PeerUnavailable as error:
            unavailable.append(str(error))
    for name, folder in external:
        if name in evaluation.peers or name in [method.name for method in evaluation.methods]:
            raise ValueError(f"There are two rows named {name!r}; give what another codec made another name.")
        evaluation.peers[name] = load_external(name, folder)
    for reason in unavailable:
        print(reason, file=sys.stderr)

    evaluation.encode()
    evaluation.decode()
    evaluation.code_by_peers()
    evaluation.measure()
    evaluation.wait()
    if evaluation.is_main:
        sets = evaluation.measure_sets(distances)
        write_report(evaluation, sets, about(evaluation) | {"unavailable": unavailable}, num_sheets)
    evaluation.wait()
    return evaluation.failures()


def about(evaluation: Evaluation) -> dict:
    """What the figures depend on besides the photos."""
    versions = {name: version(name) for name in ("rsic-diffusers", *LIBRARIES)}
    asked = ("model", "weights", "presets", "max_side", "seed")
    return {
        "command": shlex.join(sys.argv),
        **{name: getattr(evaluation, name) for name in asked},
        "device": str(evaluation.device),
        "dtype": str(evaluation.dtype),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
    }
