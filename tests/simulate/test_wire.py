"""Wires delay beats in order, never tear a frame, and do what is injected."""

import random
from itertools import groupby

import pytest

from hyperdrive_hdl.isa import Side
from hyperdrive_hdl.simulate.backend import LinkAction, LinkFaultInjection
from hyperdrive_hdl.simulate.stalls import MAX_DRIFT, Drift
from hyperdrive_hdl.simulate.wire import IDLE, Wire

TAIL = [IDLE] * (3 * MAX_DRIFT)


def frames_and_gaps(seed: int, count: int = 200) -> list[tuple[bool, int]]:
    """Frames of 1 to 9 beats, numbered, one to many idle beats between them."""
    rng = random.Random(seed)
    beats = [IDLE]
    for number in range(count):
        beats += [(True, number * 16 + i) for i in range(rng.randint(1, 9))]
        beats += [IDLE] * rng.choice((1, 1, 2, 30))
    return beats


def frames(beats) -> list[list[int]]:
    return [[data for _, data in run] for valid, run in groupby(beats, lambda beat: beat[0]) if valid]


def carried(wire: Wire, sent) -> list[tuple[bool, int]]:
    return [wire.step(cycle, beat) for cycle, beat in enumerate([*sent, *TAIL])]


def injection(action: LinkAction, **more) -> LinkFaultInjection:
    return LinkFaultInjection(chip=(0, 0), side=Side.EAST, action=action, **more)


@pytest.mark.parametrize("latency", [1, 2, 7])
def test_a_fixed_delay(latency):
    sent = frames_and_gaps(latency)
    arrived = carried(Wire(latency, Drift(None, 0), 16), sent)
    assert arrived[latency - 1 : latency - 1 + len(sent)] == sent


@pytest.mark.parametrize("seed", range(20))
def test_a_drifting_delay_keeps_frames_whole_apart_and_in_order(seed):
    sent = frames_and_gaps(seed)
    arrived = carried(Wire(1 + seed % 3, Drift(seed, seed), 16), sent)
    assert frames(arrived) == frames(sent)
    delays = {arrived.index(beat) - sent.index(beat) for beat in sent if beat[0]}
    assert min(delays) >= seed % 3
    assert len(delays) > 4
    assert max(delays) > MAX_DRIFT // 2


@pytest.mark.parametrize(
    ("action", "becomes"),
    [(LinkAction.FLIP, [5 ^ 6]), (LinkAction.DROP, []), (LinkAction.REPEAT, [5, 5])],
)
def test_one_beat_is_disturbed(action, becomes):
    sent = [IDLE, *((True, data) for data in range(3, 9)), *([IDLE] * 4), *((True, data) for data in (1, 2))]
    arrived = carried(Wire(1, Drift(None, 0), 16, [injection(action, cycle=3, mask=6)]), sent)
    assert frames(arrived) == [[3, 4, *becomes, 6, 7, 8], [1, 2]]


def test_a_held_line_goes_on_later():
    sent = frames_and_gaps(1)
    wire = Wire(2, Drift(None, 0), 16, [injection(LinkAction.HOLD, cycle=50, cycles=40)])
    arrived = carried(wire, sent)
    assert frames(arrived) == frames(sent)
    assert (
        max(len(list(run)) for valid, run in groupby(arrived[50:], lambda beat: beat[0]) if not valid) >= 40
    )


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16])
def test_a_fault_finds_the_nth_border_beat(width):
    """CONTROL frames, of kind 0, do not count; nor the first beat of one bit of a kind 1."""

    def frame(kind: int, rest: int) -> list[tuple[bool, int]]:
        bits = f"{kind:02b}{rest:014b}"
        return [(True, int(bits[i : i + width], 2)) for i in range(0, 16, width)] + [IDLE]

    sent = [IDLE, *frame(0, 77), *frame(1, 99), *frame(0, 5), *frame(2, 33)]
    counted = 16 // width - (width == 1)
    arrived = carried(
        Wire(1, Drift(None, 0), width, [injection(LinkAction.FLIP, border_beat=counted + 1)]), sent
    )
    changed = [i for i, (a, b) in enumerate(zip(sent, arrived[1:], strict=False)) if a != b]
    last = len(sent) - 1 - 16 // width
    assert changed == [last]
