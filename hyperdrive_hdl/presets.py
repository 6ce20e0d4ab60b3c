"""Named chips. A preset's name or a TOML file goes wherever a chip is asked for."""

from pathlib import Path

from .config import ChipConfig
from .errors import ConfigError

_LARGE_ECP5 = ChipConfig(
    name="ulx3s",
    lanes=16,
    tile_rows=4,
    tile_cols=4,
    fmm_banks=8,
    fmm_bank_depth=1024,
    wbuf_depth=4608,
    accumulator="exact",
    adder_latency=3,
    memory_latency=5,
)

PRESETS = {
    chip.name: chip
    for chip in (
        # Tests and demo: two 8x8 maps of up to 64 channels, and room for a third of half the size.
        ChipConfig(
            name="tiny",
            lanes=4,
            tile_rows=2,
            tile_cols=2,
            fmm_banks=12,
            fmm_bank_depth=256,
            wbuf_depth=576,
            link_width=4,
            border_depth=256,
        ),
        # The paper's chip, section V: 16 x 7 x 7 TPUs, 401,408 words, 512 kernels of 3x3.
        ChipConfig(
            name="paper",
            lanes=16,
            tile_rows=7,
            tile_cols=7,
            fmm_banks=8,
            fmm_bank_depth=1024,
            wbuf_depth=4608,
            link_width=4,
            border_depth=512,
        ),
        # Boards (targets/boards.py). ULX3S and OrangeCrab with the 85F: 256 TPUs, 131,072 words.
        _LARGE_ECP5,
        _LARGE_ECP5.replace(name="orangecrab"),
        # Built in minutes.
        _LARGE_ECP5.replace(name="ulx3s-small", lanes=8, tile_rows=2, tile_cols=2, wbuf_depth=576),
        # One rounding per addition, as the paper's.
        _LARGE_ECP5.replace(name="ulx3s-paper", tile_rows=3, tile_cols=3, accumulator="sequential"),
        # Banks of a single-port RAM's size, 4 of them. FP16's exact sums and rounding do not fit.
        ChipConfig(
            name="icebreaker",
            lanes=8,
            tile_rows=1,
            tile_cols=1,
            fmm_banks=4,
            fmm_bank_depth=16384,
            wbuf_depth=576,
            format="q4.5",
            accumulator="exact",
        ),
        ChipConfig(
            name="tang-nano-9k",
            lanes=4,
            tile_rows=1,
            tile_cols=1,
            fmm_banks=12,
            fmm_bank_depth=1024,
            wbuf_depth=576,
            accumulator="exact",
        ),
        ChipConfig(
            name="tang-primer-20k",
            lanes=8,
            tile_rows=2,
            tile_cols=2,
            fmm_banks=8,
            fmm_bank_depth=512,
            wbuf_depth=576,
            accumulator="exact",
        ),
    )
}


def load_chip(spec: str) -> ChipConfig:
    """The preset of that name, or the chip described by that TOML file.

    Raises
    ------
    ConfigError : neither a preset nor a readable, valid file
    """
    if spec in PRESETS:
        return PRESETS[spec]
    if spec.endswith(".toml") or Path(spec).is_file():
        return ChipConfig.from_toml(spec)
    raise ConfigError(f"chip {spec!r} is neither a preset ({', '.join(PRESETS)}) nor a TOML file")
