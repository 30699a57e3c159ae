"""HSVLC, the hierarchical spatially-variable latent codec (paper, section III-C; RGE)."""

import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import nn

from .entropy import ConditionalPrior, GaussianCDFTables, RansStream, gaussian_bits
from .fixed_point import ACTIVATION_ONE, round_ste
from .layers import DownBlock, ResidualBlock, UpBlock
from .rate import LEVELS, PAPER_PROFILE, rate_weight


CELL = 8  # latent positions along the side of a cell of M (64 pixels)
MAX_SYMBOL = 127  # about what the priors can take in: their activations are 16 bits in units of 1/256


def expand_to_latents(cells: torch.Tensor, shape) -> torch.Tensor:
    """What belongs to cells of M, (B, 1, rows, columns), at each position of latents of `shape` (height, width)."""
    return cells.repeat_interleave(CELL, -1).repeat_interleave(CELL, -2)[..., : shape[0], : shape[1]]


@dataclass
class HSVLCOutput(BaseOutput):
    """
    Args:
        sample (`torch.Tensor` of shape (B, 4, h, w)): The decoded latents.
        bits (`list[torch.Tensor]`): For each scale, coarse to fine, bits by code element, (B, C_i, h_i, w_i);
            zero behind closed gates.
    """

    sample: torch.Tensor
    bits: list[torch.Tensor] | None = None


@dataclass
class HSVLCCompressOutput(BaseOutput):
    """
    Args:
        data (`bytes`): The rANS stream.
        bits_per_scale (`list[float]`): Information content of each coded scale in bits, coarse to fine.
    """

    data: bytes
    bits_per_scale: list[float]


@dataclass
class Conditions:
    """All that depends on M alone, coarse to fine: what a loop over latents with one M need compute but once.

    Args:
        maps (`list[torch.Tensor]`): M on the grids of 1/16, 1/8, 1/4, 1/2 and 1 of the padded latents.
        down, up (`list[tuple[torch.Tensor, torch.Tensor]]`): Scale and shift in the blocks of each of the first four
            grids.
        out (`tuple[torch.Tensor, torch.Tensor]`): Scale and shift in the last block.
        gains (`list[torch.Tensor]`): What each code is multiplied by before rounding, and divided by afterwards.
    """

    maps: list[torch.Tensor]
    down: list[tuple[torch.Tensor, torch.Tensor]]
    up: list[tuple[torch.Tensor, torch.Tensor]]
    out: tuple[torch.Tensor, torch.Tensor]
    gains: list[torch.Tensor]


class HSVLC(ModelMixin, ConfigMixin):
    r"""Codes Stable Diffusion latents at a rate that follows the weight map M.

    ```
             M --> SFT in every block, gates, priors
                                                                       <- encoder | decoder ->
    z0 -> Down 1/2 ---> Down 1/4 ---> Down 1/8 ---> Down 1/16
            |             |             |             |
          y3,M>=1/4     y2,M>=1/8        y1           y0          q_i = round(y_i - mean_i)
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
        code_channels (`tuple[int]`): Channels of f_0 (1/16, coarsest) to f_3 (1/2, finest).
        gates (`tuple[float]`): f_i is coded where M >= gates[i]. The first design had (0, 1/2, 3/4, 7/8). With
            lambda(M) as it is, f_3 is worth most of the bits long before M = 7/8, so the rate went from 0.010 bpp at
            M = 3/4 to 0.070 at M = 1 with a leap between, inside which no constant M gave a size (rsic-tiny). These
            gates open where a scale is still worth little, and the rate goes up without a leap. f_1 is coded
            everywhere: with f_0 alone, M = 0 left 0.94 of the latents' variance at 0.0004 bpp; with both it is 0.79
            at 0.0008, the cheapest bits of the whole file, and diffusion gets something to refine.
        prior_channels (`int`): Width of the prior networks.
        num_scales, scale_min, scale_max: The ladder of Gaussian scales, in symbols.
        scaling_factor (`float`, *optional*): `scaling_factor` of the VAE whose latents the codec was trained on.
        single_layer (`bool`): One code at 1/4 of the latents' size and no gates: the paper's "w/o HSVLC".
        conditional_prior (`bool`): False: p(f_i | M) in place of p(f_i | f_<i, M), an ablation.
    """

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
    ):
        super().__init__()
        if single_layer:
            # The same transforms; of the four codes only the third is left, with a channel for each latent element.
            code_channels, gates = (0, 0, 16 * latent_channels, 0), (0.0,) * 4
        self.gates = tuple(gates)
        widths = tuple(reversed(hidden_channels))  # coarse to fine, as all lists below
        self.down = nn.ModuleList(
            DownBlock(c_in, c_out) for c_in, c_out in zip((latent_channels, *hidden_channels), hidden_channels)
        )
        self.scales = [i for i, channels in enumerate(code_channels) if channels]
        coded = tuple(code_channels[i] for i in self.scales)
        self.code_in = nn.ModuleList(
            nn.Conv2d(2 * width, channels, 3, padding=1) if channels else nn.Identity()
            for width, channels in zip(widths, code_channels)
        )
        self.code_out = nn.ModuleList(
            nn.Conv2d(channels, width, 3, padding=1) if channels else nn.Identity()
            for width, channels in zip(widths, code_channels)
        )
        # Codes are quantised to whole numbers, so how finely is a matter of their size. At high rates the best step is
        # proportional to 1 / sqrt(lambda), and lambda(M) = c exp(6 M): a gain of exp(3 (M - 1)). The coarse
        # codes, which are all there is at low M, would then round to zero; trained, rsic-tiny's slopes were 0.1, 0.2,
        # 1.1 and 2.9 with exp(7 M), and are 1.3, 1.3, 1.9 and 2.8 today. So they start from none (coarsest) to that
        # (finest).
        self.gain = nn.ParameterList(nn.Parameter(torch.full((code_channels[i], 1, 1), float(i))) for i in self.scales)
        self.start = nn.Parameter(torch.zeros(1, widths[0], 1, 1))
        self.up = nn.ModuleList(UpBlock(c_in, c_out) for c_in, c_out in zip(widths, (*widths[1:], 32)))
        self.out_block = ResidualBlock(32)
        self.out = nn.Conv2d(32, latent_channels, 3, padding=1)
        self.prior = ConditionalPrior(coded, prior_channels, num_scales, conditional_prior)
        self.tables = GaussianCDFTables(num_scales, scale_min, scale_max)
        self.register_buffer("codec_id", torch.zeros(2, dtype=torch.int32))

    # ------------------------------------------------------------------------------------------------- weight maps

    def _maps(self, weight_map: torch.Tensor, height: int, width: int) -> list[torch.Tensor]:
        """M on the grids of 1/16, 1/8, 1/4, 1/2 and 1 of the (padded) latents.

        A cell of f_0's grid holds 2 x 2 cells of M and takes their largest value. Cells that padding added are 0.
        """
        rows, columns = height // CELL, width // CELL
        weight_map = F.pad(weight_map, (0, columns - weight_map.shape[-1], 0, rows - weight_map.shape[-2]))
        maps = [F.max_pool2d(weight_map, 2), weight_map]
        for factor in (2, 4, 8):
            maps.append(weight_map.repeat_interleave(factor, -1).repeat_interleave(factor, -2))
        return maps

    @staticmethod
    def map_shape(height: int, width: int, batch: int = 1) -> tuple[int, int, int, int]:
        """Shape of M for latents of `height` x `width`: (batch, 1, ceil(height/8), ceil(width/8))."""
        return batch, 1, -(-height // CELL), -(-width // CELL)

    def _check_map_shape(self, weight_map: torch.Tensor, batch: int, height: int, width: int) -> None:
        expected = self.map_shape(height, width, batch)
        if tuple(weight_map.shape) != expected:
            raise ValueError(
                f"weight_map has shape {tuple(weight_map.shape)}, expected {expected}: one value for each {CELL} x "
                f"{CELL} positions of a latent of {height} x {width}."
            )

    def _gate(self, i: int, level_map: torch.Tensor) -> torch.Tensor:
        return level_map >= self.gates[i]

    def condition(self, weight_map: torch.Tensor, height: int, width: int) -> Conditions:
        """What `forward` computes of M alone. Given in place of M, it is not computed again.

        Args:
            weight_map (`torch.Tensor` of shape (B, 1, ceil(height/8), ceil(width/8))): M, values in [0, 1].
            height, width (`int`): Of the latents.
        """
        self._check_map_shape(weight_map, len(weight_map), height, width)
        # Whole 1/256ths, so that this prior and the fixed-point one see the same M.
        weight_map = torch.round(weight_map.to(self.start) * ACTIVATION_ONE) / ACTIVATION_ONE
        return self._condition(self._maps(weight_map, *(side + -side % (2 * CELL) for side in (height, width))))

    def _condition(self, maps: list[torch.Tensor]) -> Conditions:
        return Conditions(
            maps,
            down=[down.block.sft(level_map) for down, level_map in zip(reversed(self.down), maps)],
            up=[up.block.sft(level_map) for up, level_map in zip(self.up, maps)],
            out=self.out_block.sft(maps[-1]),
            # 1 where M = 1.
            gains=[
                torch.exp(gain * (maps[i].clamp_min(self.gates[i]) - 1)) for i, gain in zip(self.scales, self.gain)
            ],
        )

    # -------------------------------------------------------------------------------------------------- transforms

    def _pad(self, latents: torch.Tensor) -> torch.Tensor:
        """Repeat the border until height and width are multiples of 16."""
        # Not F.pad(mode="replicate"): its gradient on CUDA is not deterministic, and the guidance takes it.
        for dim in (-2, -1):
            missing = -latents.shape[dim] % (2 * CELL)
            border = latents.narrow(dim, latents.shape[dim] - 1, 1)
            latents = torch.cat([latents, *[border] * missing], dim=dim)
        return latents

    def _analyse(self, latents: torch.Tensor, conditions: Conditions) -> list[torch.Tensor]:
        """Bottom-up features, coarse to fine."""
        features, x = [], latents
        for block, modulation in zip(self.down, reversed(conditions.down)):
            x = block(x, modulation)
            features.insert(0, x)
        return features

    def _code(self, i: int, features: list[torch.Tensor], x: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        """y_i, which rounding makes the code f_i, `x` being the decoder's features so far."""
        return self.code_in[i](torch.cat([features[i], x], dim=1)) * conditions.gains[self.scales.index(i)]

    def _top_down(self, conditions: Conditions, code):
        """Run the decoder; `code(i, x)` gives the code f_i when its turn comes, x being the features so far."""
        coarsest = conditions.maps[0]
        x = self.start.expand(len(coarsest), -1, *coarsest.shape[-2:])
        for i, block in enumerate(self.up):
            if i in self.scales:
                x = x + self.code_out[i](code(i, x) / conditions.gains[self.scales.index(i)])
            x = block(x, conditions.up[i])
        return self.out(F.silu(self.out_block(x, conditions.out)))

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
        maps = conditions.maps
        features = self._analyse(self._pad(latents), conditions)
        bits = []
        codes = hidden = None

        def code(i, x):
            nonlocal codes, hidden
            y = self._code(i, features, x, conditions)
            mean, index, hidden = self.prior(self.scales.index(i), maps[i], codes, hidden)
            residual = y - mean
            gate = self._gate(i, maps[i])
            if finest is not None:
                gate = gate & (finest >= i).view(-1, 1, 1, 1)
            if self.training or return_bits:
                symbols = residual + torch.rand_like(residual) - 0.5 if self.training else round_ste(residual)
                bits.append(gaussian_bits(symbols.float(), self.tables.scale(index.float())) * gate)
            rounded = round_ste(residual) if quantization == "ste" else residual
            codes = mean + rounded * gate
            return codes

        sample = self._top_down(conditions, code)[..., :height, :width]
        if not return_dict:
            return (sample,)
        return HSVLCOutput(sample=sample, bits=bits or None)

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

        Raises:
            ValueError: The config holds no `latent_variance`.
        """
        variance = self._measured("latent_variance")
        weights = rate_weight(weight_map, self.config.rate_lambda, self.config.lambda_growth)
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
        position = weight_map.float().clamp(0, 1) * (LEVELS - 1)
        below = position.floor().clamp_max(LEVELS - 2).long()
        return torch.lerp(logs[below], logs[below + 1], position - below).exp()

    # ------------------------------------------------------------------------------------------------------ coding

    @torch.no_grad()
    def update(self) -> None:
        """Round the priors to fixed point, make the CDF tables, name the codec. Once, after training; then save."""
        self.prior.update()
        self.tables.update()
        digest = hashlib.sha256(repr((self.gates, self.scales)).encode())
        for name, tensor in sorted(self.state_dict().items()):
            if name != "codec_id":
                tensor = tensor.cpu().reshape(-1).view(torch.uint8)  # NumPy has no bfloat16
                digest.update(name.encode() + tensor.numpy().tobytes())
        self.codec_id.copy_(torch.tensor(list(digest.digest()[:2])))

    @property
    def fingerprint(self) -> bytes:
        """Two bytes that name this trained codec; files carry them. No cast to another dtype changes them."""
        return bytes(self.codec_id.tolist())

    def compress(self, latents: torch.Tensor, weight_map: torch.Tensor) -> HSVLCCompressOutput:
        """Code latents into one rANS stream.

        Args:
            latents (`torch.Tensor` of shape (1, 4, h, w)): scaling_factor x the VAE's latents, any h and w.
            weight_map (`torch.Tensor` of shape (1, 1, ceil(h/8), ceil(w/8))): M, values in [0, 1].

        Returns:
            [`HSVLCCompressOutput`]: The stream, and the information content of each scale.

        Raises:
            ValueError: The arguments do not fit, the latents hold NaN, or the codec is not ready to code.
        """
        self._check_coding(weight_map, latents.shape[-2:])
        if latents.shape[0] != 1:
            raise ValueError(f"compress codes one latent at a time, got a batch of {latents.shape[0]}.")
        if not bool(torch.isfinite(latents).all()):
            raise ValueError("The latents hold NaN or infinite values; was the VAE run in a dtype it cannot stand?")
        integer_maps = self._integer_maps(weight_map, latents.shape[-2:])
        with torch.no_grad():
            conditions = self._condition([(level_map / ACTIVATION_ONE).to(latents) for level_map in integer_maps])
            features = self._analyse(self._pad(latents), conditions)
        stream = RansStream(self.tables.as_lists())
        bits = []

        def write_scale(i, mean, index, gate, x):
            y = self._code(i, features, x, conditions).cpu().double()
            q = torch.round(y - mean / ACTIVATION_ONE).clamp(-MAX_SYMBOL, MAX_SYMBOL).long()[gate]
            stream.write(q, index[gate])
            bits.append(self.tables.bits(q, index[gate]))
            return q

        self._walk(conditions, integer_maps, write_scale)
        return HSVLCCompressOutput(data=stream.finish(), bits_per_scale=bits)

    def decompress(self, data: bytes, weight_map: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        """Decode what `compress` wrote.

        Args:
            data (`bytes`): The stream.
            weight_map (`torch.Tensor` of shape (1, 1, ceil(h/8), ceil(w/8))): The M it was coded with.
            shape (`tuple[int, int]`): Height and width of the latents.

        Returns:
            `torch.Tensor` of shape (1, 4, h, w): z_hat_0, in the model's dtype and on its device.

        Raises:
            ValueError: The stream is not what an encoder writes for this map and shape.
        """
        return self._read(data, weight_map, shape)[0]

    def decode_symbols(self, data: bytes, weight_map: torch.Tensor, shape: tuple[int, int]) -> list[torch.Tensor]:
        """The integers in the stream, coarse to fine: int64 tensors of shape (C_i, h_i, w_i), 0 behind closed gates.

        They are the same on every device, dtype, thread count and library version.
        """
        return [symbols[0] for symbols in self._read(data, weight_map, shape)[1]]

    @torch.no_grad()
    def _read(self, data, weight_map, shape):
        self._check_coding(weight_map, shape)
        integer_maps = self._integer_maps(weight_map, shape)
        conditions = self._condition([(level_map / ACTIVATION_ONE).to(self.start) for level_map in integer_maps])
        stream = RansStream(self.tables.as_lists())
        again = RansStream(self.tables.as_lists())
        stream.open(data, max_symbols=sum(self.code_in[i].out_channels * integer_maps[i].numel() for i in self.scales))

        def read(i, mean, index, gate, x):
            q = stream.read(index[gate])
            if q.numel() and int(q.abs().max()) > MAX_SYMBOL:
                raise ValueError(f"The code stream holds a symbol beyond +-{MAX_SYMBOL}; the data is damaged.")
            again.write(q, index[gate])
            return q

        sample, symbols = self._walk(conditions, integer_maps, read)
        # rANS turns any bytes into symbols; only what an encoder wrote turns back into the same bytes.
        if again.finish() != data:
            raise ValueError("The code stream is not what an encoder writes for this map; the data is damaged.")
        return sample[..., : shape[0], : shape[1]], symbols

    @torch.no_grad()
    def _walk(self, conditions, integer_maps, symbols_of):
        """Go down the scales as encoder and decoder both must, and keep them in step.

        `symbols_of(i, mean, index, gate, x)` gives the integers q_i where the gate of scale i is open: the encoder
        measures and writes them, the decoder reads them.

        Returns:
            The decoded latents (padded size), and for each scale q_i (int64, 0 behind closed gates).
        """
        symbols = []
        codes = hidden = None

        def code(i, x):
            nonlocal codes, hidden
            mean, index, hidden = self.prior.forward_integer(self.scales.index(i), integer_maps[i], codes, hidden)
            gate = self._gate(i, integer_maps[i] / ACTIVATION_ONE).expand_as(mean)
            q = torch.zeros_like(index)
            q[gate] = symbols_of(i, mean, index, gate, x)
            symbols.append(q)
            codes = mean + ACTIVATION_ONE * q
            return (codes / ACTIVATION_ONE).to(x)

        return self._top_down(conditions, code), symbols

    def _integer_maps(self, weight_map: torch.Tensor, shape: tuple[int, int]) -> list[torch.Tensor]:
        """M on all grids in units of 1/256, whole numbers in float64 on the CPU."""
        integer_map = torch.round(weight_map.detach().cpu().double() * ACTIVATION_ONE)
        return self._maps(integer_map, *(side + -side % (2 * CELL) for side in shape))

    def _check_coding(self, weight_map: torch.Tensor, shape: tuple[int, int]) -> None:
        self._check_map_shape(weight_map, 1, *shape)
        if not bool(((weight_map >= 0) & (weight_map <= 1)).all()):
            raise ValueError("weight_map must hold numbers between 0 and 1; it holds others, or NaN.")
        self.require_tables()

    def require_tables(self) -> None:
        """ValueError unless the codec is ready to code."""
        if not self.tables.ready:
            raise ValueError("This HSVLC has no CDF tables yet; call `hsvlc.update()` once after training, then save.")
