"""Feature-map memory: banks of single-port SRAM, one address for all tiles (paper section V)."""

from amaranth.hdl import Array, ClockSignal, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory, MemoryData
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..cells.leaf import Sram
from ..config import ChipConfig
from .hierarchy import cell_library, instantiate
from .layouts import ADDRESS_BITS, words
from .registers import delayed, spread


class SinglePortMemory(wiring.Component):
    """One SRAM macro: a row of tiles' words at one address, read or written, never both.

    Latency 1: ``read_data`` holds the word addressed in the last cycle with ``enable`` and not ``write``. Its
    value before the first read, and after a write, is not to be used.

    Parameters
    ----------
    depth : words
    width : bits of one tile's word
    tiles : words side by side, each with its own write mask

    Members
    -------
    enable, write, address : the access
    mask : tiles that a write changes
    write_data, read_data : word per tile
    cells : the contents, for simulators
    """

    def __init__(self, *, depth: int, width: int, tiles: int):
        self._width = width
        self._cell = Sram(depth, width * tiles, tiles)
        self.cells = MemoryData(shape=width * tiles, depth=depth, init=[])
        super().__init__(
            {
                "enable": In(1),
                "write": In(1),
                "address": In(ceil_log2(depth)),
                "mask": In(tiles),
                "write_data": In(data.ArrayLayout(width, tiles)),
                "read_data": Out(data.ArrayLayout(width, tiles)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        if library := cell_library(platform):
            wires = {pin.name: getattr(self, pin.name) for pin in self._cell.pins if pin.name != "clk"}
            library.place(m, "cells", self._cell, wires | {"clk": ClockSignal()})
            return m
        m.submodules.cells = cells = Memory(self.cells)
        write_port = cells.write_port(granularity=self._width)
        read_port = cells.read_port()
        m.d.comb += [
            write_port.addr.eq(self.address),
            write_port.en.eq(Mux(self.enable & self.write, self.mask, 0)),
            write_port.data.eq(self.write_data),
            read_port.addr.eq(self.address),
            read_port.en.eq(self.enable & ~self.write),
            self.read_data.as_value().eq(read_port.data),
        ]
        return m


class FeatureMemory(wiring.Component):
    """The feature maps of all tiles: two accesses per cycle, to different banks.

    The MAC port reads a pixel word of every tile; the other port serves the epilogue and the transfers.
    Whoever drives them keeps them off the same bank (``Issue``, ``MemoryPort``); no arbitration here.

    Latency ``memory_latency`` from address to data, one access per port and cycle.

    Parameters
    ----------
    config : the chip

    Members
    -------
    mac_enable, mac_address, mac_data : MAC port, word per tile
    enable, write, address, read_data : the other port
    results, load, load_word : what is written: a word per tile, or with ``load`` the same for all
    rows, cols : tile rows and columns that a write changes
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        super().__init__(
            {
                "mac_enable": In(1),
                "mac_address": In(ADDRESS_BITS),
                "mac_data": words(config).flip(),
                "enable": In(1),
                "write": In(1),
                "address": In(ADDRESS_BITS),
                "rows": In(config.tile_rows),
                "cols": In(config.tile_cols),
                "results": words(config),
                "load": In(1),
                "load_word": In(config.word_width),
                "read_data": words(config).flip(),
            }
        )

    @property
    def latency(self) -> int:
        return self._config.memory_latency

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self._config
        # Registers, in the order of ``memory_latency``: behind the selection of the bank, where accesses come
        # in, behind and before every SRAM.
        behind, before, behind_sram, before_sram = (int(self.latency > n) for n in (1, 2, 3, 4))

        def at_banks(name: str, init: int | None = None) -> Value:
            return delayed(m, getattr(self, name), before, name=f"{name}_at_banks", init=init)

        mac_enable, mac_address = at_banks("mac_enable", 0), at_banks("mac_address")
        enable, write, access_address = at_banks("enable", 0), at_banks("write"), at_banks("address")
        rows, cols = at_banks("rows"), at_banks("cols")
        # Of the two, which one is chosen late, and far from most tiles.
        load, load_word = at_banks("load"), at_banks("load_word")
        write_data = [
            [
                Mux(load, load_word, delayed(m, word, before, name=f"result{i}_{j}_at_banks"))
                for j, word in enumerate(row)
            ]
            for i, row in enumerate(self.results)
        ]
        depth_bits = ceil_log2(config.fmm_bank_depth)
        bank_bits = max(1, ceil_log2(config.fmm_banks))
        mac_bank = mac_address[depth_bits : depth_bits + bank_bits]
        bank = access_address[depth_bits : depth_bits + bank_bits]
        to_word = before_sram + behind_sram  # how much later than without these the SRAM's word is there
        # The bank of the last read chooses the word in every tile: for a high clock each has its register.
        apart = config.tiles if behind else 1
        mac_bank_read, bank_read = (
            spread(
                m,
                delayed(m, number, to_word, name=f"{name}_bank"),
                apart,
                name=f"{name}_bank_read",
                enable=delayed(m, reads, to_word, name=f"{name}_reads", init=0),
            )
            for reads, number, name in ((mac_enable, mac_bank, "mac"), (enable & ~write, bank, "other"))
        )

        read = [[] for _ in range(config.tile_rows)]  # [tile row][bank] -> words of the row
        for b in range(config.fmm_banks):
            by_mac = Signal(name=f"mac_uses_bank{b}")
            by_other = Signal(name=f"other_uses_bank{b}")
            address = Signal(depth_bits, name=f"address{b}")
            m.d.comb += [
                by_mac.eq(mac_enable & (mac_bank == b)),
                by_other.eq(enable & (bank == b)),
                address.eq(Mux(by_other, access_address, mac_address)),
            ]
            for i in range(config.tile_rows):
                sram = instantiate(
                    m,
                    platform,
                    f"bank{b}_row{i}",
                    SinglePortMemory,
                    depth=config.fmm_bank_depth,
                    width=config.word_width,
                    tiles=config.tile_cols,
                )

                def at_sram(value: Value, name: str, init: int | None = None, at: str = f"{b}_{i}") -> Value:
                    return delayed(m, value, before_sram, name=f"{name}{at}", init=init)

                m.d.comb += [
                    sram.enable.eq(at_sram(by_mac | by_other, "enable", 0)),
                    sram.write.eq(at_sram(by_other & write, "write")),
                    sram.address.eq(at_sram(address, "address")),
                    sram.mask.eq(at_sram(Mux(rows[i], cols, 0), "mask")),
                ]
                for j in range(config.tile_cols):
                    m.d.comb += sram.write_data[j].eq(at_sram(write_data[i][j], f"write_data{j}_"))
                read[i].append(
                    [
                        delayed(m, word, behind_sram, name=f"word{b}_{i}_{j}")
                        for j, word in enumerate(sram.read_data)
                    ]
                )

        for i in range(config.tile_rows):
            for j in range(config.tile_cols):
                by_bank = Array([words_of_row[j] for words_of_row in read[i]])
                at = (i * config.tile_cols + j) % apart
                m.d.comb += [
                    self.mac_data[i][j].eq(
                        delayed(m, Value.cast(by_bank[mac_bank_read[at]]), behind, name=f"mac{i}_{j}")
                    ),
                    self.read_data[i][j].eq(
                        delayed(m, Value.cast(by_bank[bank_read[at]]), behind, name=f"read{i}_{j}")
                    ),
                ]
        return m
