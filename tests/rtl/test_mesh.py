"""The mesh as a component: a program on all chips at once, both kinds of links, in Amaranth's simulator."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from hyperdrive_hdl.config import MeshConfig
from hyperdrive_hdl.errors import ConfigError
from hyperdrive_hdl.model.layers import run_stage
from hyperdrive_hdl.model.layout import from_streams, to_streams
from hyperdrive_hdl.rtl.mesh import Mesh
from tests.support.chips import MINI, small_program

CHIP = MINI.replace(name="linked", link_width=8, border_depth=64)


@pytest.mark.parametrize(
    ("mesh", "clock"),
    [
        (MeshConfig(cols=2), "source"),
        pytest.param(MeshConfig(rows=2), "source", marks=pytest.mark.slow),
        pytest.param(MeshConfig(cols=2), "synchronous", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_program_on_every_chip(mesh, clock):
    chip = CHIP.replace(link_clock=clock)
    program, stage, image = small_program(3, chip, mesh=mesh, height=mesh.rows, width=2 * mesh.cols)
    [load], [store] = program.loads, program.stores
    words = program.words(1).tolist()
    inputs = to_streams(image[load.map.map.name], load.map, chip, mesh)
    outputs: dict[tuple[int, int], list[int]] = {at: [] for at in inputs}
    halted: set[tuple[int, int]] = set()
    dut = Mesh(config=chip, mesh=mesh)
    simulator = Simulator(dut)
    simulator.add_clock(1e-9)

    def feed(stream, values):
        async def process(ctx):
            for value in values:
                ctx.set(stream.payload, value)
                ctx.set(stream.valid, 1)
                await ctx.tick().until(stream.ready)
            ctx.set(stream.valid, 0)

        return process

    def watch(at, ports):
        async def process(ctx):
            ctx.set(ports.fm_out.ready, 1)
            while at not in halted:
                _, _, valid, word, halt, error = await ctx.tick().sample(
                    ports.fm_out.valid, ports.fm_out.payload, ports.status.halted, ports.status.error
                )
                assert error == 0, f"chip {at}: side {ctx.get(ports.status.side)}"
                if valid:
                    outputs[at].append(word)
                if halt:
                    halted.add(at)

        return process

    for at, stream in inputs.items():
        ports = dut.chips[at[0]][at[1]]
        simulator.add_testbench(feed(ports.program, words), background=True)
        simulator.add_testbench(feed(ports.fm_in, stream.tolist()), background=True)
        simulator.add_testbench(watch(at, ports))
    simulator.run_until(20e-6)
    assert halted == set(inputs)
    expected = run_stage(
        stage, image, wbuf_depth=chip.wbuf_depth, format=chip.number_format, accumulator=chip.accumulator
    )
    found = from_streams({at: np.array(w, np.uint16) for at, w in outputs.items()}, store.map, chip, mesh)
    np.testing.assert_array_equal(found, expected[store.map.map.name])


def test_chips_without_links_make_no_mesh():
    with pytest.raises(ConfigError, match="set link_width"):
        Mesh(config=MINI, mesh=MeshConfig(cols=2))
    assert Mesh(config=MINI, mesh=MeshConfig())
