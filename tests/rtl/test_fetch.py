"""Fetch: every packet to its unit whatever the stalls, fences made absolute, every error code."""

import random
from itertools import pairwise

import pytest

from hyperdrive_hdl import isa
from hyperdrive_hdl.config import ChipConfig
from hyperdrive_hdl.isa import ErrorCode, Opcode
from hyperdrive_hdl.rtl.fetch import Fetch
from hyperdrive_hdl.rtl.layouts import CONV_DESCRIPTOR, FENCE_BITS, TRANSFER_DESCRIPTOR
from tests.support.streams import Stalls, get, put, read, simulate

MODULUS = 1 << FENCE_BITS  # of instruction counts


def chip(lanes, **changes) -> ChipConfig:
    return ChipConfig(
        lanes=lanes, tile_rows=1, tile_cols=2, fmm_banks=3, fmm_bank_depth=64, wbuf_depth=20
    ).replace(**changes)


def config_packet(config) -> list[int]:
    signature = config.signature
    return [isa.header(Opcode.CONFIG, 3), isa.MAGIC, signature & 0xFFFF, signature >> 16]


def random_body(rng, layout) -> list[int]:
    return [rng.getrandbits(sum(bits for _, bits in word)) for word in layout]


CONV, TRANSFER = isa.CONV_LAYOUT, isa.TRANSFER_LAYOUT
UNITS = {
    Opcode.CONV: ("convs", CONV, CONV_DESCRIPTOR, {"need_loads": "loads", "need_stores": "stores"}),
    Opcode.LOAD: (
        "loads",
        TRANSFER,
        TRANSFER_DESCRIPTOR,
        {"need_convs": "convs", "need_transfers": "stores"},
    ),
    Opcode.STORE: (
        "stores",
        TRANSFER,
        TRANSFER_DESCRIPTOR,
        {"need_convs": "convs", "need_transfers": "loads"},
    ),
}


def decoded(words, layout) -> dict[str, int]:
    """A body's fields by name, bit by bit from the table in isa.py."""
    values = {}
    for word, parts in zip(words, layout, strict=True):
        for name, bits in parts:
            values[name] = word % (1 << bits)
            word >>= bits
    return values


def useful_bits(config) -> dict[str, int]:
    """Of fields that cannot be larger than the chip."""
    rows = config.wbuf_depth.bit_length()
    return {"last_lanes": config.lanes.bit_length(), "block_channels": rows, "last_channels": rows}


def random_program(rng, config, packets, expected):
    """A program and, in ``expected``, what every unit has to get from it."""
    words = config_packet(config)
    counts = dict.fromkeys(("convs", "loads", "stores"), 0)
    for _ in range(packets):
        opcode = rng.choice(
            [Opcode.CONV, Opcode.LOAD, Opcode.STORE, Opcode.PARAMS, Opcode.PARAMS, Opcode.WEIGHTS]
        )
        if opcode in UNITS:
            unit, layout, descriptor, fences = UNITS[opcode]
            body = random_body(rng, layout)
            words += [isa.header(opcode, len(body)), *body]
            values = decoded(body, layout)
            waits = {"loads": "wait_loads", "convs": "wait_convs", "stores": "wait_stores"}
            want = {name: value for name, value in values.items() if not name.startswith("wait_")}
            for name, bits in useful_bits(config).items():  # of others the chip keeps nothing
                if name in want:
                    want[name] %= 1 << bits
            for need, other in fences.items():
                wait = values.get(waits[other], values.get("wait_transfers"))
                if opcode != Opcode.CONV and other != "convs":
                    wait = values["wait_transfers"]
                want[need] = (counts[other] - wait) % MODULUS
            assert set(want) == {n for n, _ in descriptor if not n.startswith("spare")}
            expected[unit].append(want)
            counts[unit] += 1
        elif opcode == Opcode.PARAMS:
            kinds = rng.choice([1, 2, 3])
            width = config.parameter_width
            values = [rng.getrandbits(width) for _ in range(config.lanes * kinds.bit_count())]
            junk = rng.getrandbits(config.program_width) >> width << width
            words += [isa.header(opcode, kinds), *[value | junk for value in values]]
            places = [(kind, lane) for kind in (0, 1) if kinds >> kind & 1 for lane in range(config.lanes)]
            expected["parameters"].append(
                [(*place, value) for place, value in zip(places, values, strict=True)]
            )
        else:
            rows = [rng.getrandbits(config.lanes) for _ in range(rng.randint(1, config.wbuf_depth))]
            junk = rng.getrandbits(config.program_width) >> config.lanes << config.lanes
            words += [isa.header(opcode, len(rows)), *[row | junk for row in rows]]
            expected["rows"] += rows
    return [*words, isa.header(Opcode.HALT)]


@pytest.mark.parametrize(("lanes", "format"), [(1, "fp16"), (4, "q2.9"), (20, "bf16"), (24, "q9.6")])
@pytest.mark.parametrize("seed", range(2))
def test_every_packet_reaches_its_unit(lanes, format, seed):
    """Three programs one after the other; all destinations stall at random, also ``idle`` comes late."""
    rng = random.Random(f"{lanes} {seed}")
    config = chip(lanes, format=format)
    dut = Fetch(config=config)
    expected = {"convs": [], "loads": [], "stores": [], "parameters": [], "rows": []}
    words = []
    for packets in (25, 1, 25):
        words += random_program(rng, config, packets, expected)
    found = {name: [] for name in expected}
    pulses = {"halted": 0, "started": 0, "waited_for_set": 0, "waited_for_idle": 0}
    over = False

    async def feed(ctx):
        nonlocal over
        # Headers carry nothing above 16 bits that counts.
        await put(ctx, dut.program, words, Stalls((seed, "program")) if seed else lambda: False)
        await ctx.tick()
        over = True

    def take(unit):
        async def bench(ctx):
            found[unit] = await get(ctx, getattr(dut, unit), len(expected[unit]), Stalls((seed, unit)))

        return bench

    async def convs(ctx):
        """A descriptor shows in the cycle after it went, and until the next goes."""
        stalls = Stalls((seed, "convs"))
        while len(found["convs"]) < len(expected["convs"]):
            ready = not stalls()
            ctx.set(dut.convs.ready, ready)
            went = ready and ctx.get(dut.convs.valid)
            if found["convs"]:
                assert ctx.get(dut.convs.taken) == found["convs"][-1]
            await ctx.tick()
            if went:
                found["convs"].append(ctx.get(dut.convs.taken))
        ctx.set(dut.convs.ready, 0)

    async def parameters(ctx):
        """Two sets, taken with the pulse, freed now and then."""
        in_use, chance = 0, random.Random(f"free {seed}")
        while not over:
            free = in_use < 2
            ctx.set(dut.parameters_free, free)
            ctx.set(dut.idle, chance.random() < 0.2)
            ctx.set(dut.leftover, 0)
            if ctx.get(dut.parameters_taken):
                assert free, "a set was taken that is not free"
                in_use += 1
                found["parameters"].append([])
            if ctx.get(dut.parameter_write):
                lane, kind = ctx.get(dut.parameter_lane), ctx.get(dut.parameter_bias)
                found["parameters"][-1].append((kind, lane, ctx.get(dut.parameter)))
            for name in ("halted", "started"):
                pulses[name] += ctx.get(getattr(dut, name))
            if ctx.get(dut.program.valid) and not ctx.get(dut.program.ready):
                header = ctx.get(dut.program.payload) >> isa.OPERAND_BITS & 7
                pulses["waited_for_set"] += header == Opcode.PARAMS and not free
                pulses["waited_for_idle"] += header == Opcode.HALT and not ctx.get(dut.idle)
            assert ctx.get(dut.error) == ErrorCode.NONE
            assert not (ctx.get(dut.halted) and not ctx.get(dut.idle))
            in_use -= in_use > 0 and chance.random() < 0.01
            await ctx.tick()
        assert not ctx.get(dut.busy)

    simulate(dut, feed, convs, take("loads"), take("stores"), take("rows"), parameters, limit=40_000)
    for unit, want in expected.items():
        assert len(found[unit]) == len(want) > 0, unit
        for seen, wanted in zip(found[unit], want, strict=True):
            if isinstance(wanted, dict):
                seen = {name: seen[name] for name in wanted}
            assert seen == wanted, unit
    assert pulses["halted"] == pulses["started"] == 3
    assert pulses["waited_for_set"] > 0
    assert pulses["waited_for_idle"] > 0


def good(config) -> list[int]:
    return config_packet(config)


HEADER = isa.header
FAULTS = [
    # name, words after which the error must come, code
    ("not_config", lambda c: [HEADER(Opcode.HALT)], ErrorCode.CONFIG),
    ("load_first", lambda c: [HEADER(Opcode.LOAD, len(TRANSFER))], ErrorCode.CONFIG),
    ("config_length", lambda c: [HEADER(Opcode.CONFIG, 4)], ErrorCode.OPCODE),
    ("magic", lambda c: [HEADER(Opcode.CONFIG, 3), isa.MAGIC ^ 1], ErrorCode.CONFIG),
    ("signature_low", lambda c: [*good(c)[:2], good(c)[2] ^ 0x10], ErrorCode.CONFIG),
    ("signature_high", lambda c: [*good(c)[:3], good(c)[3] ^ 0x8000], ErrorCode.CONFIG),
    ("opcode", lambda c: [*good(c), 0], ErrorCode.OPCODE),
    ("opcode_operand", lambda c: [*good(c), 0x1FFF], ErrorCode.OPCODE),
    ("load_length", lambda c: [*good(c), HEADER(Opcode.LOAD, len(TRANSFER) - 1)], ErrorCode.OPCODE),
    ("store_length", lambda c: [*good(c), HEADER(Opcode.STORE, len(TRANSFER) + 1)], ErrorCode.OPCODE),
    ("conv_length", lambda c: [*good(c), HEADER(Opcode.CONV, len(CONV) + 1)], ErrorCode.OPCODE),
    ("conv_long", lambda c: [*good(c), HEADER(Opcode.CONV, len(CONV) + 4096)], ErrorCode.OPCODE),
    ("params_none", lambda c: [*good(c), HEADER(Opcode.PARAMS, 0)], ErrorCode.OPCODE),
    ("params_4", lambda c: [*good(c), HEADER(Opcode.PARAMS, 4)], ErrorCode.OPCODE),
    ("params_7", lambda c: [*good(c), HEADER(Opcode.PARAMS, 7)], ErrorCode.OPCODE),
    ("weights_none", lambda c: [*good(c), HEADER(Opcode.WEIGHTS, 0)], ErrorCode.OPCODE),
    ("weights_many", lambda c: [*good(c), HEADER(Opcode.WEIGHTS, c.wbuf_depth + 1)], ErrorCode.OPCODE),
    ("halt_operand", lambda c: [*good(c), HEADER(Opcode.HALT, 1)], ErrorCode.OPCODE),
    ("leftover", lambda c: [*good(c), HEADER(Opcode.HALT)], ErrorCode.LEFTOVER),
    ("leftover_config", lambda c: [*good(c), HEADER(Opcode.CONFIG, 3)], ErrorCode.LEFTOVER),
    ("after_halt", lambda c: [*good(c), HEADER(Opcode.HALT), HEADER(Opcode.WEIGHTS, 1)], ErrorCode.CONFIG),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fault", "code"), FAULTS, ids=[f[0] for f in FAULTS])
@pytest.mark.parametrize("stalled", [False, True])
def test_faults_are_told_and_stop_the_program(name, fault, code, stalled):
    config = chip(4)
    words = fault(config)
    dut = Fetch(config=config)
    errors = []

    async def feed(ctx):
        ctx.set(dut.idle, 1)
        ctx.set(dut.parameters_free, 1)
        for unit in (dut.convs, dut.loads, dut.stores, dut.rows):
            ctx.set(unit.ready, 1)
        stalls = Stalls(name) if stalled else lambda: False
        for at, word in enumerate(words):
            assert ctx.get(dut.error) == 0, "the error came before the fault"
            ctx.set(dut.leftover, name.startswith("leftover") and at == len(words) - 1)
            await put(ctx, dut.program, [word], stalls)
        assert ctx.get(dut.error) == code
        # Nothing is taken or done any more, even a correct program.
        ctx.set(dut.program.valid, 1)
        for word in [*config_packet(config), HEADER(Opcode.WEIGHTS, 2), 3, 3, HEADER(Opcode.HALT)] * 2:
            ctx.set(dut.program.payload, word)
            assert not ctx.get(dut.program.ready)
            for pulse in ("halted", "started", "parameters_taken", "parameter_write"):
                assert not ctx.get(getattr(dut, pulse))
            for unit in (dut.convs, dut.loads, dut.stores, dut.rows):
                assert not ctx.get(unit.valid)
            errors.append(ctx.get(dut.error))
            assert ctx.get(dut.busy)
            await ctx.tick()

    simulate(dut, feed, limit=3000)
    assert set(errors) == {code}


@pytest.mark.parametrize("bit", range(16))
@pytest.mark.parametrize("word", [1, 2, 3])
def test_every_bit_of_the_signature_counts(word, bit):
    config = chip(2)
    words = config_packet(config)
    words[word] ^= 1 << bit
    dut = Fetch(config=config)

    async def feed(ctx):
        ctx.set(dut.idle, 1)
        await put(ctx, dut.program, words[: word + 1])
        assert ctx.get(dut.error) == ErrorCode.CONFIG

    simulate(dut, feed, limit=50)


def test_fences_count_on_beyond_256_and_restart_with_config():
    config = chip(1)
    dut = Fetch(config=config)
    body = [0, *[0] * (len(TRANSFER) - 1)]  # wait for all convolutions and stores before
    packet = [HEADER(Opcode.LOAD, len(body)), *body]
    store = [HEADER(Opcode.STORE, len(body)), *body]
    needs = []

    async def feed(ctx):
        ctx.set(dut.idle, 1)
        program = [*config_packet(config), *store * 300, *packet, HEADER(Opcode.HALT)]
        await put(ctx, dut.program, [*program, *config_packet(config), *store, *packet])

    async def loads(ctx):
        needs.extend(item["need_transfers"] for item in await get(ctx, dut.loads, 2))

    async def stores(ctx):
        await get(ctx, dut.stores, 301)

    simulate(dut, feed, loads, stores, limit=5000)
    assert needs == [300 % MODULUS, 1]


def headers(words, config) -> list[Opcode]:
    found, at = [], 0
    while at < len(words):
        opcode, operand = Opcode(words[at] >> isa.OPERAND_BITS & 7), words[at] & 0x1FFF
        found.append(opcode)
        at += 1 + (config.lanes * operand.bit_count() if opcode == Opcode.PARAMS else operand)
    return found


def test_one_word_per_cycle():
    """Nothing holds the program up; a cycle is lost only between descriptors of the same unit."""
    config = chip(4)
    rng = random.Random(5)
    expected = {"convs": [], "loads": [], "stores": [], "parameters": [], "rows": []}
    words = random_program(rng, config, 30, expected)
    dut = Fetch(config=config)
    taken = 0

    async def feed(ctx):
        nonlocal taken
        for member in (
            dut.idle,
            dut.parameters_free,
            dut.convs.ready,
            dut.loads.ready,
            dut.stores.ready,
            dut.rows.ready,
        ):
            ctx.set(member, 1)
        ctx.set(dut.program.valid, 1)
        stalls = 0
        while taken < len(words):
            ctx.set(dut.program.payload, words[taken])
            ready = ctx.get(dut.program.ready)
            taken += ready
            stalls += not ready
            await ctx.tick()
        assert stalls == sum(a == b and a in UNITS for a, b in pairwise(headers(words, config)))
        assert read(ctx, dut.error) == 0

    simulate(dut, feed, limit=2000)
    assert taken == len(words) > 200
