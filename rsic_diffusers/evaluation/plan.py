"""What an evaluation compares, over which photos, and where its files go."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..bitstream.sizes import SIDE_STEP
from ..bitstream.weight_map import DEFAULT_WEIGHT
from ..folders import share_of_work
from ..pipelines.encoder_inputs import CHECKPOINT_MAX_SIDE, check_limit
from ..pipelines.presets import PAPER, PRESETS
from ..referring.demands import UnknownKeyError, check_weight
from .ledger import Ledger
from .methods import VAE_ALONE, Method, ablations, own_methods
from .metrics import PICTURE_METRICS, SET_METRICS, load_available, load_picture_metrics, load_set_metrics
from .peers import DEFAULT_PEERS, PeerUnavailable, load_external, load_peer
from .peers.external import stem
from .photos import Photo


@dataclass
class EvaluationPlan:
    """What is compared, over which photos, and where it goes.

    Args:
        photos (`list[Photo]`): See [`find_photos`].
        output (`Path`): Folder for files, pictures and the ledger. What is there already is not made again.
        model (`str`): Folder, Hub id or embedded model.
        loading (`dict`): base_model, variant and revision, as `from_pretrained` of our pipelines takes them.
        weights (`list[float]`): M in the region. The first is that of tables, presets and ablations; the others only
            add points to the curves.
        background (`float`, *optional*): M outside the region; by default the encoder's.
        presets (`list[str | None]`): Of the decoder; None is the model's own settings. Ablations are of the first.
        with_ablations (`bool`): See [`ablations`].
        decodings (`list[tuple[str, dict]]`): More rows: names, and arguments of the decoder over the first preset's.
        single_layer (`str`, *optional*): Folder of a codec trained with `--single_layer`, for "without HSVLC".
        codecs (`list[str]`, *optional*): Names of `PEERS`; default: `DEFAULT_PEERS`.
        external (`list[tuple[str, str]]`): Names, and folders of what other codecs made, see [`load_external`].
        at_size_of (`str`, *optional*): Name of an external codec. Files then take as many bytes as its files, in both
            modes, by a budget that moves the weights.
        metrics (`list[str]`, *optional*): Names of `PICTURE_METRICS` and `SET_METRICS`, or "all"; default: those
            with `by_default`.
        referring_model (`str`, *optional*): Finds the photos' phrases; without one their masks or boxes are referred
            to. What is measured stays the latter.
        max_side (`int` or "auto", *optional*), refinement_steps (`int`), device, dtype (`torch.dtype`): As the
            pipelines take them.
        seed (`int`, *optional*): Of the decoder's noise; by default the file's own.
    """

    photos: list[Photo]
    output: Path
    model: str = "rsic-tiny"
    loading: dict = field(default_factory=dict)
    weights: list[float] = field(default_factory=lambda: [DEFAULT_WEIGHT])
    background: float | None = None
    presets: list[str | None] = field(default_factory=lambda: [None])
    with_ablations: bool = False
    decodings: list[tuple[str, dict]] = field(default_factory=list)
    single_layer: str | None = None
    codecs: list[str] | None = None
    external: list[tuple[str, str]] = field(default_factory=list)
    at_size_of: str | None = None
    metrics: list[str] | None = None
    referring_model: str | None = None
    max_side: int | str | None = CHECKPOINT_MAX_SIDE
    refinement_steps: int = 0
    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float32
    seed: int | None = None

    def __post_init__(self):
        self.weights, self.presets = list(dict.fromkeys(self.weights)), list(dict.fromkeys(self.presets))
        self._check_arguments()
        self.share = share_of_work()
        self.mine = self.photos[self.share.process_index :: self.share.num_processes]
        self.ledger = Ledger(self.output, self.share.process_index)
        self.has_regions = bool(self.referring_model) or any(photo.box or photo.mask_path for photo in self.photos)
        self.methods = own_methods(self.presets, self.has_regions)
        if self.with_ablations:
            self.methods += ablations(self.presets[0], self.has_regions, self.single_layer is not None)
        for name, arguments in self.decodings:
            known = {"preset", *PAPER}
            if not arguments.keys() <= known or None in arguments.values():
                raise UnknownKeyError(f"The row {name!r} may set {', '.join(sorted(known))}; got {arguments}.")
            arguments = {"preset": self.presets[0], **arguments}
            if arguments["preset"] not in (None, *PRESETS):
                raise ValueError(f"The row {name!r} asks for no preset there is; choose from {', '.join(PRESETS)}.")
            self.methods.append(Method(name, self.methods[0].encoding, arguments))
        self._load_instruments()
        self._note_photos_without_a_region()
        names = [*(method.name for method in self.methods), VAE_ALONE, *self.peers]
        if len({_folder_name(name, 0) for name in names}) < len(names) or any("/" in name for name in names):
            raise ValueError(f"Rows must have names of their own, without a slash; these are {', '.join(names)}.")
        if len({_folder_name("", weight) for weight in self.weights}) < len(self.weights):
            raise ValueError(
                f"The weights {', '.join(map(str, self.weights))} are equal to six digits; leave one out."
            )

    def _check_arguments(self):
        for weight in self.weights:
            check_weight("weight", weight)
        if self.background is not None:
            check_weight("background", self.background)
        if self.max_side != CHECKPOINT_MAX_SIDE:
            check_limit("max_side", self.max_side, SIDE_STEP)
        check_limit("refinement_steps", self.refinement_steps, 0)
        unknown = [preset for preset in self.presets if preset not in (None, *PRESETS)]
        if unknown:
            raise ValueError(f"There is no preset {', '.join(unknown)}; choose from {', '.join(PRESETS)}.")
        if self.referring_model and not all(photo.phrase for photo in self.photos):
            raise ValueError("A referring model needs a phrase for each photo; give annotations that hold them.")
        if self.single_layer and not self.with_ablations:
            raise ValueError("A single-layer codec is for an ablation; ask for the ablations too.")

    def _note_photos_without_a_region(self):
        unasked = sum(not (self.referring_model or photo.box or photo.mask_path) for photo in self.photos)
        if self.has_regions and unasked and self.share.is_main_process:
            print(
                f"{unasked} of the {len(self.photos)} photos have neither box nor mask: in the rows of referring mode "
                "they have one M everywhere, and no figures inside and outside a region.",
                file=sys.stderr,
            )

    def _load_instruments(self):
        """Other codecs and metrics, and a line on each that cannot be had."""
        self.peers, self.unavailable = {}, []
        for name in DEFAULT_PEERS if self.codecs is None else self.codecs:
            try:
                peer = load_peer(name)
                self.peers[peer.name] = peer
            except PeerUnavailable as error:
                self.unavailable.append(str(error))
        for name, folder in self.external:
            if name in self.peers:
                raise ValueError(f"There are two codecs {name!r}; give what was made elsewhere another name.")
            self.peers[name] = load_external(name, Path(folder))
        if self.external:
            _check_stems([photo.name for photo in self.photos])
        if self.at_size_of not in (None, *dict(self.external)):
            raise ValueError(f"There is no external codec {self.at_size_of!r} whose sizes files could take.")
        known = {**PICTURE_METRICS, **SET_METRICS}
        names = self.metrics or [name for name, metric in known.items() if metric.by_default]
        names = list(known) if "all" in names else names
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"There is no metric {', '.join(unknown)}; choose from {', '.join(known)}, or all.")
        of_sets = [name for name in names if name in SET_METRICS]
        of_pictures = [name for name in names if name not in SET_METRICS]
        self.picture_metrics, reasons = load_available(load_picture_metrics, of_pictures, self.device)
        self.set_metrics, more = load_available(load_set_metrics, of_sets, self.device)
        self.unavailable += reasons + more
        if self.share.is_main_process:
            print(*self.unavailable, sep="\n", end="\n" * bool(self.unavailable), file=sys.stderr)

    def rows(self) -> list[tuple[str, float]]:
        """Names and weights of all that is measured, in the order of the tables."""
        own = [(method.name, weight) for method in self.methods for weight in self.weights_of(method)]
        # A folder of pictures is the same at each weight.
        theirs = [
            (name, weight)
            for name in self.peers
            for weight in (self.weights[:1] if name in dict(self.external) else self.weights)
        ]
        return [*own, (VAE_ALONE, self.weights[0]), *theirs]

    def weights_of(self, method: Method) -> list[float]:
        return self.weights if method.on_curve else self.weights[:1]

    def files(self) -> list[tuple[str, float]]:
        """Encodings and weights of all files that are made, in the order in which they need each other."""
        wanted = [(method.encoding, weight) for method in self.methods for weight in self.weights_of(method)]
        if self.has_regions:  # files of global mode take the sizes of these
            wanted = [("referring", weight) for weight in self.weights] + wanted
        return list(dict.fromkeys(wanted))

    def file(self, photo: Photo, encoding: str, weight: float) -> Path:
        return self.output / "files" / _folder_name(encoding, weight) / f"{photo.name}.rsic"

    def picture(self, photo: Photo, name: str, weight: float) -> Path:
        return self.output / "pictures" / _folder_name(name, weight) / f"{photo.name}.png"

    def entries(self) -> list[dict]:
        """The figures of every photo by every row; those that failed left out."""
        entries = [self.ledger.get(photo.name, *row) for row in self.rows() for photo in self.photos]
        return [
            {key: entry[key] for key in entry if key not in ("failed_metrics", "measured_against")}
            for entry in entries
            if entry
        ]

    def failures(self) -> list[str]:
        """What went wrong in this run's rows and their files, a sentence each."""
        wanted = {*self.rows()} | {(f"file, {encoding}", weight) for encoding, weight in self.files()}
        photos = {photo.name for photo in self.photos}
        failures = []
        for (photo, name, weight), entry in self.ledger.entries.items():
            if (name, weight) in wanted and photo in photos:
                row = f"{photo}, {name}, M = {weight:.3f}"
                failures += [f"{row}: {entry['error']}"] if "error" in entry else []
                reasons = entry.get("failed_metrics", {})
                failures += [f"{row}, {name}: {why}" for name, why in reasons.items() if name in self.picture_metrics]
        return failures


def _folder_name(name: str, weight: float) -> str:
    return f"{name.replace(', ', '-').replace(' = ', '').replace(' ', '-')}-{weight:.6g}"


def _check_stems(names: list[str]) -> None:
    """ValueError where two photos are one to an external codec's folder, which ignores suffixes."""
    seen = {}
    for name in names:
        if stem(name) in seen:
            raise ValueError(
                f"{seen[stem(name)]} and {name} differ only in their suffix, by which the pictures of an --external "
                "codec are not told apart; rename one."
            )
        seen[stem(name)] = name
