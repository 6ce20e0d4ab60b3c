"""Feature-map memory: banks of single-port SRAM, one address for all tiles (paper section V)."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory, MemoryData
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..config import ChipConfig
from .hierarchy import instantiate
from .layouts import ADDRESS_BITS, words


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

    Latency 1 from address to data, one access per port and cycle.

    Parameters
    ----------
    config : the chip

    Members
    -------
    mac_enable, mac_address, mac_data : MAC port, word per tile
    enable, write, address, write_data, read_data : the other port
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
                "write_data": words(config),
                "read_data": words(config).flip(),
            }
        )

    @property
    def latency(self) -> int:
        return 1

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self._config
        depth_bits = ceil_log2(config.fmm_bank_depth)
        bank_bits = max(1, ceil_log2(config.fmm_banks))
        mac_bank = self.mac_address[depth_bits : depth_bits + bank_bits]
        bank = self.address[depth_bits : depth_bits + bank_bits]
        mac_bank_read = Signal(bank_bits)
        bank_read = Signal(bank_bits)
        with m.If(self.mac_enable):
            m.d.sync += mac_bank_read.eq(mac_bank)
        with m.If(self.enable & ~self.write):
            m.d.sync += bank_read.eq(bank)

        read = [[] for _ in range(config.tile_rows)]  # [tile row][bank] -> words of the row
        for b in range(config.fmm_banks):
            by_mac = Signal(name=f"mac_uses_bank{b}")
            by_other = Signal(name=f"other_uses_bank{b}")
            address = Signal(depth_bits, name=f"address{b}")
            m.d.comb += [
                by_mac.eq(self.mac_enable & (mac_bank == b)),
                by_other.eq(self.enable & (bank == b)),
                address.eq(Mux(by_other, self.address, self.mac_address)),
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
                m.d.comb += [
                    sram.enable.eq(by_mac | by_other),
                    sram.write.eq(by_other & self.write),
                    sram.address.eq(address),
                    sram.mask.eq(Mux(self.rows[i], self.cols, 0)),
                ]
                m.d.comb += [sram.write_data[j].eq(self.write_data[i][j]) for j in range(config.tile_cols)]
                read[i].append(sram.read_data)

        for i in range(config.tile_rows):
            for j in range(config.tile_cols):
                by_bank = Array([words_of_row[j] for words_of_row in read[i]])
                m.d.comb += [
                    self.mac_data[i][j].eq(by_bank[mac_bank_read]),
                    self.read_data[i][j].eq(by_bank[bank_read]),
                ]
        return m
