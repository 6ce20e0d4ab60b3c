"""Units computed in steps that hand over one group of signals each, with registers after some of them."""

from collections.abc import Callable
from types import SimpleNamespace

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

Step = Callable[[Module, SimpleNamespace], SimpleNamespace]


class PipelinedUnit(wiring.Component):
    """A function of its operands, ``latency`` cycles later: one per cycle, no back-pressure.

    A unit says what its ``_steps`` are, in order. The first one is given the operands, each one what the one
    before has returned; the last one returns the results.

    Parameters
    ----------
    operands, results : shapes of the members by name
    cuts : by the number of stages, the steps that end with registers; "operands" before the first step, more
        than once where the unit is too small to have as many steps
    stages : one of those numbers
    """

    def __init__(
        self, *, operands: dict[str, object], results: dict[str, object], cuts: dict[int, str], stages: int
    ):
        if type(stages) is not int or stages not in cuts:
            raise ValueError(f"stages must be an integer from {min(cuts)} to {max(cuts)}, not {stages!r}")
        self._operands = tuple(operands)
        self._results = tuple(results)
        self._cuts = cuts[stages].split()
        super().__init__(
            {name: In(shape) for name, shape in operands.items()}
            | {name: Out(shape) for name, shape in results.items()}
        )

    @property
    def latency(self) -> int:
        """Cycles from operands to results."""
        return len(self._cuts)

    def _steps(self) -> tuple[Step, ...]:
        raise NotImplementedError

    def elaborate(self, platform) -> Module:
        m = Module()
        signals = SimpleNamespace(**{name: getattr(self, name) for name in self._operands})
        for _ in range(self._cuts.count("operands")):
            signals = registered(m, signals, "operands")
        for step in self._steps():
            name = step.__name__.strip("_")
            signals = step(m, signals)
            if name in self._cuts:
                signals = registered(m, signals, name)
        m.d.comb += [getattr(self, name).eq(getattr(signals, name)) for name in self._results]
        return m


def step_signals(name: str, **shapes: object) -> SimpleNamespace:
    """Signals between two steps. Not one ``View``, whose fields CXXRTL would take for one signal."""
    return SimpleNamespace(**{key: Signal(shape, name=f"{name}_{key}") for key, shape in shapes.items()})


def passed_on(signals: SimpleNamespace, names: str, more: SimpleNamespace) -> SimpleNamespace:
    """A step's own signals, and those of the step before that later ones need."""
    return SimpleNamespace(**{name: getattr(signals, name) for name in names.split()}, **vars(more))


def registered(m: Module, signals: SimpleNamespace, name: str) -> SimpleNamespace:
    """The same signals a cycle later."""
    later = {
        key: Signal(value.shape(), name=f"{name}_{key}_q", reset_less=True)
        for key, value in vars(signals).items()
    }
    m.d.sync += [register.eq(getattr(signals, key)) for key, register in later.items()]
    return SimpleNamespace(**later)
