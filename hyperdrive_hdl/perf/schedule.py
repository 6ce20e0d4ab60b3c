"""The paper's own schedule, to compare with: the array stops for scale, bias and bypass (paper table VI)."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..compiler.ir import BinaryConv
from ..config import ChipConfig


@dataclass(frozen=True)
class PaperSchedule:
    """Cycles and operations by kind. A multiply-accumulate is two operations, anything else one per word."""

    conv: int
    bnorm: int
    bias: int
    bypass: int
    macs: int
    words: int  # normalised, and biased
    bypass_words: int

    @property
    def total(self) -> int:
        return self.conv + self.bnorm + self.bias + self.bypass

    @property
    def operations(self) -> int:
        return 2 * self.macs + 2 * self.words + self.bypass_words

    def utilisation(self, chip: ChipConfig) -> float:
        """Operations of all kinds by those that the adders could do in the same time (the paper's 97.5 %)."""
        return self.operations / (self.total * 2 * chip.tpus)


def paper_schedule(layers: Iterable[BinaryConv], chip: ChipConfig) -> PaperSchedule:
    """Convolutions at K x M x N per cycle, the rest at M x N per cycle; maps and channels divide evenly."""
    layers = list(layers)
    macs = sum(layer.macs for layer in layers)
    words = sum(layer.output.words for layer in layers)
    bypass_words = sum(layer.bypass.words for layer in layers if layer.bypass)
    return PaperSchedule(
        conv=-(-macs // chip.tpus),
        bnorm=-(-words // chip.tiles),
        bias=-(-words // chip.tiles),
        bypass=-(-bypass_words // chip.tiles),
        macs=macs,
        words=words,
        bypass_words=bypass_words,
    )
