"""HSVLC, the hierarchical spatially-variable latent codec of referring guidance encoding (paper, section II-B)."""

import hashlib

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ..torch_state import loading_alone
from .entropy import ConditionalPrior, GaussianCDFTables, IntegerPriors, gaussian_bits
from .fixed_point import ACTIVATION_ONE, round_ste
from .layers import DownBlock, ResidualBlock, UpBlock
from .outputs import Conditions, HSVLCCompressOutput, HSVLCOutput
from .rans import CodeStreamError, RansDecoder, RansEncoder
from .rate import MEASURED_LEVELS, PAPER_PROFILE, distortion_weight
from .validation import check_coding_state, check_config, coding_digest


CELL = 8  # latent positions along the side of a cell of M (64 pixels)
GRID_STEPS = (16, 8, 4, 2)  # latent positions along the side of a position of f_0, f_1, f_2 and f_3
PADDING_FADE = 0.5  # share of the difference from the mean that is left at each further position of padding
MAX_SYMBOL = 127  # about what the priors can take in: their activations are 16 bits in units of 1/256


def expand_to_latents(cells: torch.Tensor, shape) -> torch.Tensor:
    """Repeat the values of M's cells at every latent position.

    Args:
        cells (`torch.Tensor` of shape (B, 1, rows, columns)): A value for each cell.
        shape (`tuple[int, int]`): Height and width of the latents.

    Returns:
        `torch.Tensor` of shape (B, 1, height, width).
    """
    return cells.repeat_interleave(CELL, -1).repeat_interleave(CELL, -2)[..., : shape[0], : shape[1]]


class HSVLC(ModelMixin, ConfigMixin):
    r"""Codes Stable Diffusion latents at a rate that follows the weight map M.

    ```
             M --> SFT in every block, gates, priors
                                                                       <- encoder | decoder ->
    z0 -> Down 1/2 ---> Down 1/4 ---> Down 1/8 ---> Down 1/16
            |             |             |             |
         y3,M>=g3      y2,M>=g2      y1,M>=g1      y0,M>=g0      q_i = round(y_i - mean_i)
            |             |             |             |                   |
            |             |             |             |      rANS with p(f_i | f_<i, M), fixed point
            v             v             v             v                   |
          f3 -> Up 1 <- f2 Up 1/2 <-  f1 Up 1/4 <-  f0 Up 1/8   f_i = q_i + mean_i; behind a closed gate f_i = mean_i
            |
          z0_hat
    ```

    The analysis of each scale also sees what the decoder made of the coarser ones, so y_i carries only what is still
    missing. Only the priors pick probabilities, and they run on integers (`models/fixed_point.py`); the transforms are
    ordinary floating point.

    Args:
        latent_channels (`int`): Channels of the latents.
        hidden_channels (`tuple[int]`): Widths of the transforms at 1/2, 1/4, 1/8 and 1/16 of the latents' size.
        code_channels (`tuple[int]`): Channels of f_0 (1/16, coarsest) to f_3 (1/2, finest); 0 leaves a scale out.
        gates (`tuple[float]`): f_i is coded where M >= gates[i]. The paper's by default.
        prior_channels (`int`): Width of the prior networks.
        num_scales (`int`): Number of Gaussians in the table of CDFs.
        scale_min, scale_max (`float`): Their smallest and largest standard deviation, in symbols.
        scaling_factor (`float`, *optional*): `scaling_factor` of the VAE whose latents the codec was trained on.
        single_layer (`bool`): One code at 1/4 of the latents' size and no gates: the paper's "w/o HSVLC".
        conditional_prior (`bool`): False: p(f_i | M) in place of p(f_i | f_<i, M), an ablation.
        rate_lambda, lambda_growth (`float`): What the codec is trained for: bits per latent position plus
            rate_lambda exp(lambda_growth M) times the squared error, relative to the latents' variance. The paper's by
            default.
        latent_variance (`list[float]`, *optional*): Variance of each channel of the latents.
        level_bpp, level_error (`list[float]`, *optional*): Measured at M = 0, 1/7, ..., 1: bits of code stream per
            pixel, and mean squared error of a latent element in latent units. `measure_codec` fills these three.
        coding_digest (`str`, *optional*): Digest of all integers that pick a probability; `update` sets it, and
            loading and coding check it.

    Raises:
        ValueError: An argument cannot be right; the sentence names it.
    """

    _keep_in_fp32_modules = ["prior"]

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        hidden_channels: tuple[int, ...] = (64, 96, 128, 128),
        code_channels: tuple[int, ...] = (32, 24, 16, 8),
        gates: tuple[float, ...] = PAPER_PROFILE["gates"],
        prior_channels: int = 48,
        num_scales: int = 64,
        scale_min: float = 0.11,
        scale_max: float = 32.0,
        scaling_factor: float | None = None,
        single_layer: bool = False,
        conditional_prior: bool = True,
        rate_lambda: float = PAPER_PROFILE["rate_lambda"],
        lambda_growth: float = PAPER_PROFILE["lambda_growth"],
        latent_variance: list[float] | None = None,
        level_bpp: list[float] | None = None,
        level_error: list[float] | None = None,
        coding_digest: str | None = None,
    ):
        super().__init__()
        check_config(self.config)
        if single_layer:
            # The same transforms; of the four codes only the third is left, with a channel for each latent element.
            code_channels, gates = (0, 0, 16 * latent_channels, 0), (0.0,) * 4
        self.gates = tuple(gates)
        widths = tuple(reversed(hidden_channels))  # coarse to fine, as all lists below
        self.down = nn.ModuleList(
            DownBlock(c_in, c_out)
            for c_in, c_out in zip((latent_channels, *hidden_channels[:-1]), hidden_channels, strict=True)
        )
        self.coded_scales = [i for i, channels in enumerate(code_channels) if channels]
        coded_channels = tuple(code_channels[i] for i in self.coded_scales)
        self.code_in = nn.ModuleList(
            nn.Conv2d(2 * width, channels, 3, padding=1) if channels else nn.Identity()
            for width, channels in zip(widths, code_channels, strict=True)
        )
        self.code_out = nn.ModuleList(
            nn.Conv2d(channels, width, 3, padding=1) if channels else nn.Identity()
            for width, channels in zip(widths, code_channels, strict=True)
        )
        # Codes are rounded to whole numbers, so their size says how finely. At high rates the best step is
        # proportional to 1 / sqrt(lambda), so the finest code starts with a gain of about exp(lambda_growth / 2 M).
        # The coarse codes, which are all there is at low M, would then round to zero: the coarsest starts with none.
        self.gain = nn.ParameterList(
            nn.Parameter(torch.full((code_channels[i], 1, 1), float(i))) for i in self.coded_scales
        )
        self.start = nn.Parameter(torch.zeros(1, widths[0], 1, 1))
        self.up = nn.ModuleList(UpBlock(c_in, c_out) for c_in, c_out in zip(widths, (*widths[1:], 32), strict=True))
        self.out_block = ResidualBlock(32)
        self.out = nn.Conv2d(32, latent_channels, 3, padding=1)
        self.prior = ConditionalPrior(coded_channels, prior_channels, num_scales, conditional_prior)
        self.tables = GaussianCDFTables(num_scales, scale_min, scale_max)
        self.register_buffer("codec_id", torch.zeros(2, dtype=torch.int32))

    @classmethod
    @loading_alone()
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """As [`ModelMixin.from_pretrained`]; then checks that no weight is missing and the integers are sound.

        Raises:
            ValueError: Weights are missing, or what picks probabilities is damaged or altered.
        """
        returns_info = kwargs.pop("output_loading_info", False)
        kwargs.pop("low_cpu_mem_usage", None)  # diffusers has no other way for models that keep parts in float32
        hsvlc, info = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        missing = sorted(info["missing_keys"])
        if missing:
            raise ValueError(
                f"The weights of the HSVLC at {pretrained_model_name_or_path} lack {len(missing)} tensors, "
                f"{missing[0]} for one; fetch the checkpoint again."
            )
        if hsvlc.tables.ready or hsvlc.config.coding_digest is not None:
            check_coding_state(hsvlc)
        return (hsvlc, info) if returns_info else hsvlc

    # ------------------------------------------------------------------------------------------------- weight maps

    @staticmethod
    def map_shape(height: int, width: int, batch: int = 1) -> tuple[int, int, int, int]:
        """Shape of M for latents of `height` x `width`: (batch, 1, ceil(height/8), ceil(width/8))."""
        return batch, 1, -(-height // CELL), -(-width // CELL)

    def condition(self, weight_map: torch.Tensor, height: int, width: int) -> Conditions:
        """What `forward` computes of M alone; give it to `forward` in place of M, and it is not computed again.

        Args:
            weight_map (`torch.Tensor` of shape (B, 1, ceil(height/8), ceil(width/8))): M, values in [0, 1].
            height, width (`int`): Of the latents.

        Returns:
            [`Conditions`]

        Raises:
            ValueError: `weight_map` has another shape.
        """
        self._check_map_shape(weight_map, len(weight_map), height, width)
        # Whole 1/256ths, so that this prior and the fixed-point one see the same M. They are rounded in float32, since
        # half precision would have changed M before; half precision holds them exactly.
        weight_map = torch.round(weight_map.to(self.start.device, torch.float32) * ACTIVATION_ONE) / ACTIVATION_ONE
        weight_map = weight_map.to(self.start.dtype)
        return self._condition(self._maps(weight_map, height, width))

    def _maps(self, weight_map: torch.Tensor, height: int, width: int) -> list[torch.Tensor]:
        """M on the grids of 1/16, 1/8, 1/4, 1/2 and 1 of the latents, padded to multiples of 16.

        A cell of f_0's grid holds 2 x 2 cells of M and takes their largest value. Cells that padding added are 0.
        """
        rows, columns = ((side + -side % GRID_STEPS[0]) // CELL for side in (height, width))
        weight_map = F.pad(weight_map, (0, columns - weight_map.shape[-1], 0, rows - weight_map.shape[-2]))
        maps = [F.max_pool2d(weight_map, 2), weight_map]
        for factor in (2, 4, 8):
            maps.append(weight_map.repeat_interleave(factor, -1).repeat_interleave(factor, -2))
        return maps

    def _integer_maps(self, weight_map: torch.Tensor, height: int, width: int) -> list[torch.Tensor]:
        """M on all grids in units of 1/256, whole numbers in float64 on the CPU."""
        return self._maps(torch.round(weight_map.detach().cpu().double() * ACTIVATION_ONE), height, width)

    def _condition(self, maps: list[torch.Tensor]) -> Conditions:
        return Conditions(
            maps,
            down=[down.block.sft(scale_map) for down, scale_map in zip(reversed(self.down), maps[:-1], strict=True)],
            up=[up.block.sft(scale_map) for up, scale_map in zip(self.up, maps[:-1], strict=True)],
            out=self.out_block.sft(maps[-1]),
            # 1 where M = 1.
            gains=[
                torch.exp(gain * (maps[i].clamp_min(self.gates[i]) - 1))
                for i, gain in zip(self.coded_scales, self.gain, strict=True)
            ],
        )

    def _gate(self, i: int, scale_map: torch.Tensor) -> torch.Tensor:
        return scale_map >= self.gates[i]

    def _check_map_shape(self, weight_map: torch.Tensor, batch: int, height: int, width: int) -> None:
        expected = self.map_shape(height, width, batch)
        if tuple(weight_map.shape) != expected:
            raise ValueError(
                f"weight_map has shape {tuple(weight_map.shape)}, expected {expected}: one value for each {CELL} x "
                f"{CELL} positions of a latent of {height} x {width}."
            )

    # -------------------------------------------------------------------------------------------------- transforms

    def _pad(self, latents: torch.Tensor) -> torch.Tensor:
        """Continue the latents to multiples of 16: from the border they fade to the mean of what is near it.

        Padding is coded like the rest and thrown away, so it should cost few bits: a repeated border is a pattern of
        stripes, which takes as many as a picture does.
        """
        # Plain arithmetic, not F.pad: that has no deterministic gradient on CUDA, and guidance takes the gradient.
        for dim in (-2, -1):
            size = latents.shape[dim]
            border = latents.narrow(dim, size - 1, 1)
            depth = min(CELL // 2, size)
            mean = latents.narrow(dim, size - depth, depth).mean(dim=(-2, -1), keepdim=True)  # (B, 4, 1, 1)
            faded = [mean + (border - mean) * PADDING_FADE**k for k in range(1, 1 + -size % GRID_STEPS[0])]
            latents = torch.cat([latents, *faded], dim=dim)
        return latents

    def _analyse(self, latents: torch.Tensor, conditions: Conditions) -> list[torch.Tensor]:
        """Bottom-up features, coarse to fine."""
        features, x = [], self._pad(latents)
        for i, block in enumerate(self.down):
            x = block(x, conditions.down[-1 - i])
            features.insert(0, x)
        return features

    def _start(self, conditions: Conditions) -> torch.Tensor:
        """The decoder's features before the first code: the same everywhere."""
        coarsest = conditions.maps[0]
        return self.start.expand(len(coarsest), -1, *coarsest.shape[-2:])

    def _project(self, i: int, features: list[torch.Tensor], x: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """y_i, which rounding makes the code f_i; `x` are the decoder's features so far."""
        return self.code_in[i](torch.cat([features[i], x], dim=1)) * conditions.gains[self.coded_scales.index(i)]

    def _add_code(self, i: int, code: torch.Tensor, x: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """The decoder's features with the code f_i put into them."""
        # In a codec of half precision the priors, and with them the codes, are float32.
        code = (code / conditions.gains[self.coded_scales.index(i)]).to(self.code_out[i].weight.dtype)
        return x + self.code_out[i](code)

    def _finish(self, x: torch.Tensor, conditions: Conditions, height: int, width: int) -> torch.Tensor:
        """The decoder's features to latents, without the padding."""
        return self.out(F.silu(self.out_block(x, conditions.out)))[..., :height, :width]

    def forward(
        self,
        latents: torch.Tensor,
        weight_map: torch.Tensor | Conditions,
        quantization: str = "ste",
        return_bits: bool = False,
        finest: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> HSVLCOutput | tuple:
        """Code and decode, differentiably and without writing bytes: C(z) of the paper's Algorithm 1.

        Args:
            latents (`torch.Tensor` of shape (B, 4, h, w)): scaling_factor x the VAE's latents, any h and w.
            weight_map (`torch.Tensor` of shape (B, 1, ceil(h/8), ceil(w/8)), or [`Conditions`]): M, values in [0, 1];
                or what `condition` made of it.
            quantization (`str`): "ste" rounds, with the gradient passed straight through; "none" does not round
                (C as a smooth function).
            return_bits (`bool`): Also estimate the rate, with the priors in floating point, differentiably too. In
                training mode it is always estimated, with uniform noise in place of rounding, which is what training
                minimises.
            finest (`torch.Tensor` of shape (B,), *optional*): Leave out the codes finer than f_finest, whatever M
                says; training does so to part of a batch.

        Returns:
            [`HSVLCOutput`]: Decoded latents, and bits if they were asked for.
        """
        if quantization not in ("ste", "none"):
            raise ValueError(f'quantization must be "ste" or "none", got {quantization!r}.')
        height, width = latents.shape[-2:]
        conditions = weight_map
        if not isinstance(conditions, Conditions):
            self._check_map_shape(weight_map, len(latents), height, width)
            conditions = self.condition(weight_map, height, width)
        features = self._analyse(latents, conditions)
        x = self._start(conditions)
        bits, code, hidden = [], None, None
        for i, block in enumerate(self.up):
            if i in self.coded_scales:
                y = self._project(i, features, x, conditions)  # (B, C_i, h_i, w_i)
                scale_map = conditions.maps[i]
                mean, index, hidden = self.prior(self.coded_scales.index(i), scale_map, code, hidden)
                gate = self._gate(i, scale_map)
                if finest is not None:
                    gate = gate & (finest >= i).view(-1, 1, 1, 1)
                residual = self._without_padding(i, y - mean, height, width)
                if self.training or return_bits:
                    bits.append(self._estimate_bits(residual, index) * gate)
                rounded = round_ste(residual) if quantization == "ste" else residual
                code = mean + rounded * gate
                x = self._add_code(i, code, x, conditions)
            x = block(x, conditions.up[i])
        sample = self._finish(x, conditions, height, width)
        if not return_dict:
            return (sample,)
        return HSVLCOutput(sample=sample, bits=bits or None)

    @staticmethod
    def _without_padding(i: int, residual: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """`residual` of f_i, with 0 at positions that lie in the padding.

        What is decoded there is cut off, and 0 is the symbol that costs least. Decoders need not know.
        """
        rows, columns = (-(-side // GRID_STEPS[i]) for side in (height, width))
        missing = (0, residual.shape[-1] - columns, 0, residual.shape[-2] - rows)
        return F.pad(residual[..., :rows, :columns], missing) if any(missing) else residual

    def _estimate_bits(self, residual: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        symbols = residual + torch.rand_like(residual) - 0.5 if self.training else round_ste(residual)
        return gaussian_bits(symbols.float(), self.tables.scale(index.float()))

    # ---------------------------------------------------------------------------------------- rate and error by M

    def error_at(self, weight_map: torch.Tensor) -> torch.Tensor:
        """D(M): the mean squared error that the codec leaves on a latent element, in squared latent units.

        Interpolated between the measured levels, linearly in M and the logarithm of the error.

        Args:
            weight_map (`torch.Tensor` of any shape): M, values in [0, 1].

        Returns:
            `torch.Tensor`: float32, of the same shape and on the same device.

        Raises:
            ValueError: The config holds no `level_error`.
        """
        return self._at_levels("level_error", weight_map)

    def rate_at(self, weight_map: torch.Tensor) -> torch.Tensor:
        """R(M): bits of the code stream per pixel of a photo with this M everywhere; as `error_at`."""
        return self._at_levels("level_bpp", weight_map)

    def lambda_at(self, weight_map: torch.Tensor) -> torch.Tensor:
        """lambda(M) that the codec was trained with, in bits per latent position for one unit of a latent element's
        mean squared error.

        Args:
            weight_map (`torch.Tensor` of any shape): M, values in [0, 1].

        Returns:
            `torch.Tensor` of the same shape.

        Raises:
            ValueError: The config holds no `latent_variance`.
        """
        variance = self._measured("latent_variance")
        weights = distortion_weight(weight_map, self.config.rate_lambda, self.config.lambda_growth)
        return weights * len(variance) / sum(variance)

    def _measured(self, name: str) -> list[float]:
        values = self.config[name]
        if values is None:
            raise ValueError(
                f"This HSVLC's config has no {name}: the codec was never measured. Run "
                "rsic_diffusers.models.measurement.measure_codec on the latents of some photos, then save it."
            )
        return values

    def _at_levels(self, name: str, weight_map: torch.Tensor) -> torch.Tensor:
        logs = torch.tensor(self._measured(name), dtype=torch.float32, device=weight_map.device).log()
        position = weight_map.float().clamp(0, 1) * (MEASURED_LEVELS - 1)
        below = position.floor().clamp_max(MEASURED_LEVELS - 2).long()
        return torch.lerp(logs[below], logs[below + 1], position - below).exp()

    # ------------------------------------------------------------------------------------------------------ coding

    @torch.no_grad()
    def update(self) -> None:
        """Round the priors to fixed point, make the CDF tables, name the codec. Once, after training; then save."""
        self.prior.update()
        self.tables.update()
        digest = hashlib.sha256(repr((self.gates, self.coded_scales)).encode())
        for name, tensor in sorted(self.state_dict().items()):
            if name != "codec_id":
                tensor = tensor.cpu().reshape(-1).view(torch.uint8)  # NumPy has no bfloat16
                digest.update(name.encode() + tensor.numpy().tobytes())
        self.codec_id.copy_(torch.tensor(list(digest.digest()[:2])))
        self.register_to_config(coding_digest=coding_digest(self))

    @property
    def fingerprint(self) -> bytes:
        """Two bytes that name this trained codec; files carry them. No cast to another dtype changes them."""
        return bytes(self.codec_id.tolist())

    @torch.no_grad()
    def compress(self, latents: torch.Tensor, weight_map: torch.Tensor) -> HSVLCCompressOutput:
        """Code latents into one rANS stream.

        Args:
            latents (`torch.Tensor` of shape (1, 4, h, w)): scaling_factor x the VAE's latents, any h and w.
            weight_map (`torch.Tensor` of shape (1, 1, ceil(h/8), ceil(w/8))): M, values in [0, 1], in float32 or
                float64.

        Returns:
            [`HSVLCCompressOutput`]: The stream, and the information content of each scale.

        Raises:
            ValueError: The arguments do not fit, the latents hold NaN, or the codec is not ready to code.
        """
        height, width = latents.shape[-2:]
        self._check_latents(latents)
        latents = latents.to(self.device, self.dtype)
        self._check_coding(weight_map, height, width)
        integer_maps = self._integer_maps(weight_map, height, width)
        conditions = self._condition([(scale_map / ACTIVATION_ONE).to(latents) for scale_map in integer_maps])
        features = self._analyse(latents, conditions)
        encoder, bits = RansEncoder(self.tables.as_lists()), []
        priors = IntegerPriors(self.prior, self.coded_scales, self.gates, integer_maps)
        x = self._start(conditions)
        for i, block in enumerate(self.up):
            if i in self.coded_scales:
                mean, index, gate = priors.predict(i)
                y = self._project(i, features, x, conditions).cpu().double()
                if not bool(torch.isfinite(y).all()):
                    raise ValueError(
                        f"The latents go up to {float(latents.abs().max()):.3g} and the codec's transforms give NaN "
                        "or infinite values; expected scaling_factor x the VAE's latents, a codec that was trained on "
                        "the like, and a dtype wide enough."
                    )
                residual = self._without_padding(i, y - mean / ACTIVATION_ONE, height, width)
                symbols = torch.round(residual).clamp(-MAX_SYMBOL, MAX_SYMBOL).long()[gate]
                encoder.write(symbols, index[gate])
                bits.append(self.tables.bits(symbols, index[gate]))
                code = priors.take(symbols)
                x = self._add_code(i, code.to(x), x, conditions)
            x = block(x, conditions.up[i])
        return HSVLCCompressOutput(data=encoder.finish(), bits_per_scale=bits)

    @torch.no_grad()
    def decompress(self, data: bytes, weight_map: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        """Decode what `compress` wrote.

        Args:
            data (`bytes`): The stream.
            weight_map (`torch.Tensor` of shape (1, 1, ceil(h/8), ceil(w/8))): The M it was coded with, in float32 or
                float64.
            shape (`tuple[int, int]`): Height and width of the latents.

        Returns:
            `torch.Tensor` of shape (1, 4, h, w): z_hat_0, in the model's dtype and on its device.

        Raises:
            CodeStreamError: The stream is not what an encoder writes for this map and shape.
            ValueError: The arguments do not fit, the codec is not ready, or the decoded latents hold NaN.
        """
        priors = self._read(data, weight_map, shape)
        conditions = self._condition([(scale_map / ACTIVATION_ONE).to(self.start) for scale_map in priors.maps])
        x = self._start(conditions)
        for i, block in enumerate(self.up):
            if i in self.coded_scales:
                x = self._add_code(i, priors.codes[i].to(x), x, conditions)
            x = block(x, conditions.up[i])
        sample = self._finish(x, conditions, *shape)
        if not bool(torch.isfinite(sample).all()):
            raise ValueError(
                f"HSVLC's decoder gives NaN or infinite values in {self.dtype}; load the codec in torch.float32, or "
                "fetch the checkpoint again if it is damaged."
            )
        return sample

    def decode_symbols(self, data: bytes, weight_map: torch.Tensor, shape: tuple[int, int]) -> list[torch.Tensor]:
        """The integers in the stream, coarse to fine: int64 tensors of shape (C_i, h_i, w_i), 0 behind closed gates.

        They are the same on every device, dtype, thread count and library version. Arguments and errors are those of
        `decompress`.
        """
        return [symbols[0] for symbols in self._read(data, weight_map, shape).symbols]

    @torch.no_grad()
    def _read(self, data: bytes, weight_map: torch.Tensor, shape: tuple[int, int]) -> IntegerPriors:
        """Read a stream to its end; the priors then hold all codes."""
        self._check_coding(weight_map, *shape)
        integer_maps = self._integer_maps(weight_map, *shape)
        tables = self.tables.as_lists()
        most = sum(self.code_in[i].out_channels * integer_maps[i].numel() for i in self.coded_scales)
        decoder, encoder = RansDecoder(tables, data, max_symbols=most), RansEncoder(tables)
        priors = IntegerPriors(self.prior, self.coded_scales, self.gates, integer_maps)
        for i in self.coded_scales:
            _, index, gate = priors.predict(i)
            symbols = decoder.read(index[gate])
            if symbols.numel() and int(symbols.abs().max()) > MAX_SYMBOL:
                raise CodeStreamError(f"The code stream holds a symbol beyond +-{MAX_SYMBOL}; the data is damaged.")
            encoder.write(symbols, index[gate])
            priors.take(symbols)
        # rANS turns any bytes into symbols; only what an encoder wrote turns back into the same bytes.
        if encoder.finish() != data:
            raise CodeStreamError("The code stream is not what an encoder writes for this map; the data is damaged.")
        return priors

    def _check_latents(self, latents: torch.Tensor) -> None:
        if latents.ndim != 4 or latents.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"latents have shape {tuple(latents.shape)}, expected (1, {self.config.latent_channels}, h, w)."
            )
        if latents.shape[0] != 1:
            raise ValueError(f"compress codes one latent at a time, got a batch of {latents.shape[0]}.")
        if not bool(torch.isfinite(latents).all()):
            raise ValueError("The latents hold NaN or infinite values; was the VAE run in a dtype it cannot stand?")

    def _check_coding(self, weight_map: torch.Tensor, height: int, width: int) -> None:
        self._check_map_shape(weight_map, 1, height, width)
        if weight_map.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"weight_map is {weight_map.dtype}; give M in float32: half precision rounds it, and its files could "
                "not be decoded."
            )
        if not bool(((weight_map >= 0) & (weight_map <= 1)).all()):
            raise ValueError("weight_map must hold numbers between 0 and 1; it holds others, or NaN.")
        self.require_tables()

    def require_tables(self) -> None:
        """ValueError unless the codec is ready to code, with integers that are sound and unaltered."""
        if not self.tables.ready:
            raise ValueError("This HSVLC has no CDF tables yet; call `hsvlc.update()` once after training, then save.")
        check_coding_state(self)
