"""Every kind of number format and accumulator on the RTL: each layer's words as the reference says."""

import numpy as np
import pytest

from hyperdrive_hdl.compiler.compile import compile_model
from hyperdrive_hdl.compiler.emit import compile_stage
from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.data import digits_images, digits_model
from hyperdrive_hdl.isa import ErrorCode
from hyperdrive_hdl.presets import PRESETS
from hyperdrive_hdl.simulate.backend import Event
from hyperdrive_hdl.simulate.engines import make_backend
from hyperdrive_hdl.simulate.network import simulate_network
from tests.support.chips import MINI, check_program, small_program, stimulus
from tests.support.simulated import random_inputs, simulator
from tests.support.stages import random_stage

# A C++ build each: floating and fixed point, both accumulators, partial sums of two words.
QUICK = [
    ("fp8_e4m3", "sequential", 2),
    ("q2.9", "sequential", 1),
    ("fp16", "exact", 3),
]
SLOW = [
    ("bf16", "sequential", 1),
    ("q1.2", "exact", 2),  # three words to a partial sum
    ("fp16_ftz", "sequential", 4),
    ("bf16_ftz", "sequential", 3),
    ("fp8_e5m2", "exact", 1),
    ("fp8_e5m2_ftz", "sequential", 1),
    ("fp8_e4m3_ftz", "exact", 4),
    ("fp16_ftz", "exact", 2),
    ("q7.8", "sequential", 4),
    ("q0.3", "sequential", 2),
    ("q15.0", "exact", 1),
    ("q2.9", "exact", 4),
]
kinds = pytest.mark.parametrize(
    ("name", "kind", "latency"), [*QUICK, *(pytest.param(*one, marks=pytest.mark.slow) for one in SLOW)]
)


@kinds
def test_stages(name, kind, latency):
    chip = MINI.replace(format=name, accumulator=kind, adder_latency=latency, fmm_bank_depth=1024)
    backend = simulator(chip)
    words = set()
    for seed in range(10):
        rng = np.random.default_rng([seed, *name.encode()])
        stage = random_stage(rng, layers=int(rng.integers(1, 5)), format=chip.number_format)
        program = compile_stage(stage, chip, MeshConfig())
        special = (0, 0, 0.02, 0.3)[seed % 4]
        images = random_inputs(rng, stage, 2, special=special, format=chip.number_format)
        try:
            done = check_program(backend, program, stage, images, stall_seed=seed if seed % 2 else None)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        for maps in (*images, *done.outputs):
            words.update(int(word) for values in maps.values() for word in values.flat)
    assert max(words) < 1 << chip.word_width
    assert len(words) > min(100, (1 << chip.word_width) * 0.9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "latency"),
    [
        ("bf16", "sequential", 1),
        ("fp8_e4m3", "sequential", 1),
        ("q2.9", "sequential", 1),
        ("fp16", "exact", 3),
    ],
)
def test_digits(name, kind, latency):
    chip = PRESETS["tiny"].replace(format=name, accumulator=kind, adder_latency=latency)
    images, labels = (part[:20] for part in digits_images())
    with make_backend("cxxrtl", chip) as backend:
        run = simulate_network(compile_model(digits_model(), chip), images, backend)
    assert run.comparison.mismatches == 0, run.comparison.first
    assert np.mean(run.output.argmax(axis=1) == labels) >= 0.95


@pytest.mark.parametrize(
    "changes", [{"format": "bf16"}, {"accumulator": "exact"}, {"adder_latency": 3}], ids=str
)
def test_the_chip_refuses_a_program_for_another(changes):
    """Nothing is computed, nothing comes out."""
    program, _, image = small_program(1, MINI.replace(**changes))
    backend = simulator(MINI)
    backend.start(stimulus(program, [image]))
    assert backend.run(1000) is Event.ERROR
    counters = backend.counters()
    assert counters.error == ErrorCode.CONFIG
    assert (counters.mac, counters.epilogue, counters.loading) == (0, 0, 0)
    assert not backend.outputs().size
