"""The paper's tables on a folder of photos: files, pictures, figures, other codecs at as many bytes (`rsic evaluate`).

A photo goes through `encode` (to real files), `decode` (by a pipeline that knows only the files), `code_by_peers` and
`measure_pictures`; `report.py` makes tables and pictures of what they leave in the ledger.
"""

import hashlib
import json
import math
import sys
import time
from contextlib import contextmanager
from functools import partial

import torch
from diffusers.image_processor import VaeImageProcessor
from tqdm import tqdm

from .. import HSVLC, RSICDecoderPipeline, RSICEncoderPipeline
from ..bitstream import Bitstream
from ..files import write_file
from ..images import open_image
from ..metadata import save_picture
from ..pipelines.latents import decode_to_finite, encode_to_finite, resize
from ..pipelines.model_version import model_version
from ..referring.heat_maps import ReferringModel
from .equal_size import encode_at_size
from .memory import watch_memory
from .methods import VAE_ALONE
from .metrics import PICTURE_METRICS
from .plan import EvaluationPlan
from .report import write_report


ENCODER_FIGURES = ("bytes", "bpp", "header", "caption", "map", "f0", "f1", "f2", "f3", "encode_seconds")
DECODER_FIGURES = ("decode_seconds", "unet_evaluations", "peak_memory")


class Evaluation(EvaluationPlan):
    """An evaluation that does what its plan says. What is there already is not made again."""

    def encode(self) -> None:
        """Photos to `.rsic` files."""
        finder = self.referring_model and ReferringModel.from_pretrained(self.referring_model, self.device)
        encoder = self._load(RSICEncoderPipeline, referring_model=finder)
        single = self._with_single_layer(encoder)
        for photo, (encoding, weight) in self._jobs("Encoding", self.files()):
            codec_encoder = single if encoding == "without HSVLC" else encoder
            settings = partial(self._encoder_settings, codec_encoder, photo, encoding, weight)
            work = partial(self._make_file, codec_encoder, photo, encoding, weight)
            self._once(photo, f"file, {encoding}", weight, settings, self.file(photo, encoding, weight), work)

    def _encoder_settings(self, encoder, photo, encoding, weight) -> dict:
        settings = {
            "model": self.model,
            **self.loading,
            "version": model_version(encoder),
            "dtype": str(self.dtype),
            "max_side": self.max_side,
            "refinement_steps": self.refinement_steps,
            "referring_model": self.referring_model,
            "photo": [photo.checksum(), photo.caption, photo.phrase, photo.box],
            "background": self.background,
        }
        if encoding == "global" and self.has_regions:
            settings["num_bytes"] = self._made_file(photo, "referring", weight).get("bytes")
        elif encoding != "without RGE" and self.at_size_of:
            settings["num_bytes"] = self.peers[self.at_size_of].size_of(photo.name)
        return settings

    def _make_file(self, encoder, photo, encoding, weight, path, settings) -> dict:
        num_bytes = settings.get("num_bytes")
        if encoding == "global" and self.has_regions and num_bytes is None:
            raise ValueError("The file of referring mode, whose size it takes, was not made.")
        image = photo.open()
        refers = encoding not in ("global", "without RGE")
        demand = photo.demand(image.size, bool(self.referring_model)) if refers else None
        common = {
            "caption": "" if encoding == "without GDE" else photo.caption,
            "referring": demand,
            "weight": 0.0 if encoding == "without RGE" else weight,
            "background": self.background if demand else None,
            "max_side": self.max_side,
            "refinement_steps": self.refinement_steps,
        }
        figures = {}
        if num_bytes is not None:  # many tries, whose time says nothing
            out = encode_at_size(encoder, image, num_bytes, **common)
        else:
            start = time.perf_counter()
            out = encoder(image, **common)
            figures["encode_seconds"] = time.perf_counter() - start
        out.save(path)
        return {"bytes": len(out.bitstream), "bpp": out.bpp, **out.breakdown, **figures}

    def decode(self) -> None:
        """Files to pictures, by a pipeline that was not there when the files were made."""
        decoder = self._load(RSICDecoderPipeline)
        single = self._with_single_layer(decoder)
        shared = {
            "model": [self.model, *model_version(decoder)],
            **self.loading,
            "dtype": str(self.dtype),
            "device": str(self.device),
            "seed": self.seed,
        }
        wanted = [(method, weight) for method in self.methods for weight in self.weights_of(method)]
        for photo, (method, weight) in self._jobs("Decoding", wanted):
            sampler = decoder.default_settings(method.decoding.get("preset")) | method.decoding
            settings = partial(self._decoder_settings, photo, method, weight, shared | sampler)
            codec_decoder = single if method.encoding == "without HSVLC" else decoder
            work = partial(self._make_picture, codec_decoder, photo, method, weight)
            self._once(photo, method.name, weight, settings, self.picture(photo, method.name, weight), work)

        shown = {"model": shared["model"], "dtype": shared["dtype"], "max_side": self.max_side}
        for photo, (name, weight) in self._jobs("VAE alone", [(VAE_ALONE, self.weights[0])]):
            settings = partial(self._vae_settings, photo, shown)
            work = partial(self._make_vae_picture, decoder.vae, photo, weight)
            self._once(photo, name, weight, settings, self.picture(photo, name, weight), work)

    def _decoder_settings(self, photo, method, weight, shared) -> dict:
        file = self.file(photo, method.encoding, weight)
        made = self._made_file(photo, method.encoding, weight)
        # No CRC-32: that of a file that ends in its own has few values.
        digest = hashlib.sha256(file.read_bytes()).hexdigest() if made else None
        return {**shared, "preset": None, "file": digest}

    def _vae_settings(self, photo, shared) -> dict:
        return {**shared, "photo": photo.checksum()}

    @torch.no_grad()
    def _make_vae_picture(self, vae, photo, weight, path, settings) -> dict:
        """What the VAE makes of the photo's own latents, at the size at which the first method's file codes it."""
        encoding = self.methods[0].encoding
        if not self._made_file(photo, encoding, weight):
            raise ValueError("There is no file whose size it could take.")
        file = self.file(photo, encoding, weight)
        pixels = VaeImageProcessor(do_resize=False).preprocess(photo.open())  # (1, 3, H, W) in [-1, 1]
        size, coded_size = pixels.shape[-2:], Bitstream.read(file).coded_size
        latents = encode_to_finite(vae, resize(pixels, coded_size).to(vae.device, vae.dtype))  # (1, 4, h, w)
        picture = resize(decode_to_finite(vae, latents, coded_size), size)
        save_picture(VaeImageProcessor().postprocess(picture.float().cpu())[0], path)
        return {}

    def _make_picture(self, decoder, photo, method, weight, path, settings) -> dict:
        made = self._made_file(photo, method.encoding, weight)
        if not made:
            raise ValueError("Its file was not made.")
        figures = {name: made[name] for name in ENCODER_FIGURES if name in made}
        for other in self.methods:  # with the same settings by another name
            same = self.ledger.get(photo.name, other.name, weight, settings)
            picture = self.picture(photo, other.name, weight)
            if same and picture.exists():
                write_file(path, picture.read_bytes())
                return figures | {name: same[name] for name in DECODER_FIGURES}
        generator = None if self.seed is None else torch.Generator("cpu").manual_seed(self.seed)
        with watch_memory(decoder.device) as peak:
            start = time.perf_counter()
            result = decoder(self.file(photo, method.encoding, weight), generator=generator, **method.decoding)
            seconds = time.perf_counter() - start
        save_picture(result.images[0], path)
        return figures | {
            "decode_seconds": seconds,
            "unet_evaluations": result.num_unet_evaluations,
            "peak_memory": peak[0],
        }

    def code_by_peers(self) -> None:
        """Other codecs, at the bytes of the first method's files."""
        for photo, (name, weight) in self._jobs("Other codecs", [row for row in self.rows() if row[0] in self.peers]):
            settings = partial(self._peer_settings, photo, name, weight)
            work = partial(self._make_peer_picture, self.peers[name], photo)
            self._once(photo, name, weight, settings, self.picture(photo, name, weight), work)

    def _peer_settings(self, photo, name, weight) -> dict:
        if name in dict(self.external):  # whatever our file is like
            peer = self.peers[name]
            return {"photo": photo.checksum(), "folder": [str(peer.folder), peer.digest(photo.name)]}
        num_bytes = self._made_file(photo, self.methods[0].encoding, weight).get("bytes")
        if num_bytes is None:
            raise ValueError("There is no file whose bytes it could take.")
        return {"photo": photo.checksum(), "num_bytes": num_bytes}

    def _make_peer_picture(self, peer, photo, path, settings) -> dict:
        image = photo.open()
        result = peer(image, settings.get("num_bytes"), name=photo.name)
        save_picture(result.image, path)
        return {
            "bytes": result.num_bytes,
            "bpp": 8 * result.num_bytes / (image.width * image.height),
            "fits": result.fits,
            "setting": result.setting,
            "encode_seconds": result.encode_seconds,
            "decode_seconds": result.decode_seconds,
        }

    def measure_pictures(self) -> None:
        """Pictures to figures; those that an earlier run measured stay, if the photo, its region and its caption are
        the same. What does not apply, or is not finite (PSNR of equal pictures), is None."""
        for photo, (name, weight) in self._jobs("Measuring", self.rows()):
            entry = self.ledger.get(photo.name, name, weight)
            if not entry:
                continue
            figures, failed = {}, {}
            with self._noting_failure(photo, name, weight, entry["settings"]):
                against = json.loads(json.dumps([photo.checksum(), photo.box, photo.caption]))
                measured = entry.get("measured_against", {})
                stale = [metric for metric in PICTURE_METRICS if measured.get(metric) != against]
                missing = [metric for metric in self.picture_metrics if metric in stale]
                if not missing:
                    continue
                image = photo.open()
                picture, region = open_image(self.picture(photo, name, weight)), photo.region(image.size)
                for metric in missing:
                    try:
                        figures[metric] = self._figure(metric, picture, image, region, photo.caption)
                    except Exception as error:  # the picture and its other figures stay; the next run tries this again
                        failed[metric] = self._message(error, f"{photo.name}, {name}, {metric}")
                # Others, of another region say, are no figures of this photo any more.
                outdated = {metric: None for metric in stale if metric in entry and metric not in figures}
                still = [metric for metric in measured if metric not in stale]
                notes = {"measured_against": dict.fromkeys([*still, *figures], against), "failed_metrics": failed}
                self.ledger.add(photo.name, name, weight, entry["settings"], **figures, **outdated, **notes)

    def _figure(self, metric, picture, image, region, caption) -> float | None:
        kind = PICTURE_METRICS[metric]
        if (region is None and kind.needs_region) or (not caption and kind.needs_caption):
            return None
        value = self.picture_metrics[metric](picture, image, region=region, caption=caption)
        return value if math.isfinite(value) else None

    def measure_sets(self) -> list[dict]:
        """How far the pictures of each row, as a set, are from the photos.

        Returns:
            `list[dict]`: metric, method, weight, how many pictures and crops there were, and the value or an error.
        """
        references, results = {}, []  # features of the photos, which most rows share
        for name, weight in tqdm(self.rows(), desc="Distances of sets", disable=not self.set_metrics):
            photos = [photo for photo in self.photos if self.ledger.get(photo.name, name, weight)]
            features = {}
            for metric, distance in self.set_metrics.items():
                result = {"metric": metric, "method": name, "weight": weight, "crop": distance.crop}
                results.append(result)
                try:
                    result["num_images"], result["num_crops"] = distance.count(photo.open() for photo in photos)
                    key = distance.extract, tuple(photos)
                    if key not in references:
                        references[key] = distance.extract(photo.open() for photo in photos)
                    if distance.extract not in features:
                        pictures = (open_image(self.picture(photo, name, weight)) for photo in photos)
                        features[distance.extract] = distance.extract(pictures)
                    result["value"] = distance.distance(features[distance.extract], references[key])
                except ValueError as error:  # too few crops
                    result["error"] = str(error)
        return results

    def _jobs(self, title: str, wanted):
        """(photo, one of what is wanted), photo by photo, with a progress bar."""
        wanted = list(wanted)
        jobs = [(photo, job) for photo in self.mine for job in wanted]
        return tqdm(jobs, desc=title, disable=not self.share.is_main_process)

    def _once(self, photo, name, weight, settings, path, work) -> None:
        """Do a piece of work that makes `path`, unless it was done before with these settings.

        Args:
            settings (`Callable`): `settings()` gives all that decides what is made, as JSON can hold it.
            work (`Callable`): `work(path, settings)` writes the file and returns figures.
        """
        known = {}
        with self._noting_failure(photo, name, weight, known):
            known |= json.loads(json.dumps(settings()))
            if path.exists() and self.ledger.get(photo.name, name, weight, known):
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            self.ledger.add(photo.name, name, weight, known, **work(path, known))

    def _made_file(self, photo, encoding, weight) -> dict:
        """Figures of a file, {} if making it failed."""
        return self.ledger.get(photo.name, f"file, {encoding}", weight)

    @contextmanager
    def _noting_failure(self, photo, name, weight, settings):
        """One photo may fail in any way, and the others do not wait for it."""
        try:
            yield
        except Exception as error:
            self.ledger.add(photo.name, name, weight, settings, error=self._message(error, f"{photo.name}, {name}"))

    @staticmethod
    def _message(error, where) -> str:
        """What went wrong in one line, said at once as well."""
        message = " ".join(f"{error}".split()) or type(error).__name__
        tqdm.write(f"{where}: {message}", file=sys.stderr)
        return message

    def _load(self, pipeline_class, **components):
        pipeline = pipeline_class.from_pretrained(self.model, dtype=self.dtype, **self.loading, **components)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to(self.device)

    def _with_single_layer(self, pipeline):
        if self.single_layer is None:
            return None
        codec = HSVLC.from_pretrained(self.single_layer).to(self.device)
        pipeline = type(pipeline).from_pipe(pipeline, hsvlc=codec)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def evaluate(evaluation: Evaluation, num_sheets: int = 4) -> list[str]:
    """Do all of it, as far as it has not been done, and write the report.

    Returns:
        `list[str]`: What failed, a sentence each.
    """
    evaluation.encode()
    evaluation.decode()
    evaluation.code_by_peers()
    evaluation.measure_pictures()
    evaluation.share.wait_for_everyone()
    evaluation.ledger.read()
    if evaluation.share.is_main_process:
        write_report(evaluation, [], num_sheets)  # to read while the sets are measured
        write_report(evaluation, evaluation.measure_sets(), num_sheets)
    evaluation.share.wait_for_everyone()
    return evaluation.failures()
