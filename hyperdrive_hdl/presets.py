"""Named chips. A preset's name or a TOML file goes wherever a chip is asked for."""

from pathlib import Path

from .config import ChipConfig
from .errors import ConfigError

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
