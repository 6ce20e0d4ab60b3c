"""Load and store units: feature maps between the FM streams and the memory, beside computation."""

from itertools import pairwise

from amaranth.hdl import Array, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..config import ChipConfig
from ..latencies import latencies
from .axes import MapWalker
from .hierarchy import instantiate
from .issue import fence_passed
from .layouts import ADDRESS_BITS, FENCE_BITS, TRANSFER_DESCRIPTOR, words
from .registers import delayed


class _TransferUnit(wiring.Component):
    """What load and store share: descriptor, fences, walk, memory access, counts."""

    def __init__(self, *, config: ChipConfig, members: dict):
        self._config = config
        super().__init__(
            {
                "transfers": In(stream.Signature(TRANSFER_DESCRIPTOR)),
                "mesh_row": In(8),
                "mesh_col": In(8),
                "convs_done": In(FENCE_BITS),
                "transfers_done": In(FENCE_BITS),
                "restart": In(1),
                "request": Out(1),
                "grant": In(1),
                "address": Out(ADDRESS_BITS),
                "row": Out(range(max(2, config.tile_rows))),
                "col": Out(range(max(2, config.tile_cols))),
                "active": Out(1),
                "done": Out(FENCE_BITS),
                **members,
            }
        )

    def _walk(self, m: Module, platform, walking, finished, may_begin=1) -> MapWalker:
        """Start a transfer when its fences have passed; end it, and count it, when ``finished``."""
        map = self.transfers.p
        walker = instantiate(m, platform, "walker", MapWalker, config=self._config)
        m.d.comb += [
            walker.descriptor.eq(map),
            walker.mesh_row.eq(self.mesh_row),
            walker.mesh_col.eq(self.mesh_col),
            walker.start.eq(
                self.transfers.valid
                & ~self.active
                & fence_passed(self.convs_done, map.need_convs)
                & fence_passed(self.transfers_done, map.need_transfers)
                & may_begin
            ),
            self.address.eq(walker.address),
            self.row.eq(walker.row),
            self.col.eq(walker.col),
            self.transfers.ready.eq(self.active & finished),
        ]
        with m.If(walker.start):
            m.d.sync += [self.active.eq(1), walking.eq(1)]
        with m.Elif(walker.advance & walker.last_word):
            m.d.sync += walking.eq(0)
        with m.If(self.transfers.ready):
            m.d.sync += [self.active.eq(0), self.done.eq(self.done + 1)]
        with m.If(self.restart):
            m.d.sync += self.done.eq(0)
        return walker


class LoadUnit(_TransferUnit):
    """Writes a map from ``fm_in``: a word per cycle where the memory is free, zero outside the true map.

    Parameters
    ----------
    config : the chip

    Members
    -------
    transfers : descriptors; one is consumed when it is done
    fm_in : the map's true words of this chip, raster order, channels innermost
    request, grant : memory access, ``address`` in tile (``row``, ``col``), ``word`` to write
    convs_done, transfers_done : for fences (``transfers_done``: stores); ``done``: own count
    slot_free : the border slot that the load at hand names is free
    begun : a load begins; its descriptor is at ``transfers``
    pixel_done : a pixel of every tile is in memory, in raster order
    restart : counts restart
    active : a load is in progress
    """

    def __init__(self, *, config: ChipConfig):
        super().__init__(
            config=config,
            members={
                "fm_in": In(stream.Signature(config.word_width)),
                "word": Out(config.word_width),
                "slot_free": In(1),
                "begun": Out(1),
                "pixel_done": Out(1),
            },
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        walking = Signal()
        last = Signal()
        walker = self._walk(m, platform, walking, last, may_begin=~self.transfers.p.exports | self.slot_free)
        m.d.comb += [
            self.begun.eq(walker.start),
            self.pixel_done.eq(walker.pixel_done),
            last.eq(walker.advance & walker.last_word),
            self.request.eq(walking & (self.fm_in.valid | ~walker.true)),
            walker.advance.eq(self.request & self.grant),
            self.fm_in.ready.eq(walking & walker.true & self.grant),
            self.word.eq(Mux(walker.true, self.fm_in.payload, 0)),
        ]
        return m


class StoreUnit(_TransferUnit):
    """Reads a map's true words to ``fm_out``: a word per cycle where the memory is free, a cycle per
    padding pixel.

    Parameters
    ----------
    config : the chip

    Members
    -------
    transfers : descriptors; one is consumed when its last word has left
    fm_out : the map's true words of this chip, raster order, channels innermost
    request, grant : memory access, ``address`` in tile (``row``, ``col``)
    read_data : words of all tiles, ``memory_latency`` cycles after ``grant``
    convs_done, transfers_done : for fences (``transfers_done``: loads); ``done``: own count
    restart : counts restart
    active : a store is in progress
    """

    def __init__(self, *, config: ChipConfig):
        super().__init__(
            config=config,
            members={"fm_out": Out(stream.Signature(config.word_width)), "read_data": words(config)},
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        walking = Signal()
        last = Signal()
        walker = self._walk(m, platform, walking, last)
        at = latencies(self._config)
        latency = at.memory + at.gather
        depth = latency + 3  # the reads in flight, the one requested, and two for the consumer's stalls
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=self._config.word_width, depth=depth)

        granted = Signal()
        reads = [Signal(name=f"read{stage}") for stage in range(1, latency + 1)]  # on their way
        # Words of many tiles are far apart: a register behind the choice in a row, another behind the row's.
        half = at.gather // 2
        col = Value.cast(delayed(m, walker.col, at.memory, name="col"))
        row = Value.cast(delayed(m, walker.row, at.memory + half, name="row"))
        in_rows = [
            delayed(m, Value.cast(Array(line)[col]), half, name=f"word_of_row{i}")
            for i, line in enumerate(self.read_data)
        ]
        word = delayed(m, Value.cast(Array(in_rows)[row]), half, name="word")
        places = Signal(range(depth + 1), init=depth)  # for words that are not yet requested
        leaves = fifo.r_rdy & self.fm_out.ready
        with m.If(granted ^ leaves):
            m.d.sync += places.eq(places + Mux(granted, -1, 1))
        m.d.comb += [
            walker.skip.eq(~walker.true),
            self.request.eq(walking & walker.true & places.any()),
            granted.eq(self.request & self.grant),
            walker.advance.eq(granted | (walking & ~walker.true)),
            fifo.w_en.eq(reads[-1]),
            fifo.w_data.eq(word),
            self.fm_out.valid.eq(fifo.r_rdy),
            self.fm_out.payload.eq(fifo.r_data),
            fifo.r_en.eq(self.fm_out.ready),
            last.eq(~walking & (places == depth)),
        ]
        m.d.sync += [later.eq(earlier) for earlier, later in pairwise([granted, *reads])]
        return m


class MemoryPort(wiring.Component):
    """Who uses the feature memory's second port: the epilogue, else the border, a store, a load.

    The transfers stay off the bank that the MAC reads; the epilogue need not, ``Issue`` saw to it.

    Parameters
    ----------
    config : the chip

    Members
    -------
    mac_enable, mac_address : the MAC's access in this cycle
    read, write, epilogue_address : the epilogue reads a bypass, writes a result, of all tiles
    border_* : reads of words for the neighbours (with links only)
    load_*, store_* : the transfers' requests
    enable, is_write, address, rows, cols : to the memory
    from_load : the data to write is the load's word
    """

    def __init__(self, *, config: ChipConfig):
        self._config = config
        row, col = range(max(2, config.tile_rows)), range(max(2, config.tile_cols))
        border = {}
        if config.links:
            border = {
                "border_request": In(1),
                "border_grant": Out(1),
                "border_address": In(ADDRESS_BITS),
            }
        super().__init__(
            {
                "mac_enable": In(1),
                "mac_address": In(ADDRESS_BITS),
                "read": In(1),
                "write": In(1),
                "epilogue_address": In(ADDRESS_BITS),
                **border,
                "load_request": In(1),
                "load_grant": Out(1),
                "load_address": In(ADDRESS_BITS),
                "load_row": In(row),
                "load_col": In(col),
                "store_request": In(1),
                "store_grant": Out(1),
                "store_address": In(ADDRESS_BITS),
                "enable": Out(1),
                "is_write": Out(1),
                "address": Out(ADDRESS_BITS),
                "rows": Out(config.tile_rows),
                "cols": Out(config.tile_cols),
                "from_load": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        bank = slice(ceil_log2(self._config.fmm_bank_depth), ADDRESS_BITS)
        taken = Signal()
        store_free = Signal()
        load_free = Signal()

        def free(address):
            return ~self.mac_enable | (address[bank] != self.mac_address[bank])

        border_granted = Signal()
        border_address = Signal(ADDRESS_BITS)
        if self._config.links:
            m.d.comb += [
                self.border_grant.eq(~(self.read | self.write) & free(self.border_address)),
                border_granted.eq(self.border_request & self.border_grant),
                border_address.eq(self.border_address),
            ]
        m.d.comb += [
            taken.eq(self.read | self.write | border_granted),
            store_free.eq(free(self.store_address)),
            load_free.eq(free(self.load_address)),
            self.store_grant.eq(~taken & store_free),
            self.load_grant.eq(~taken & load_free & ~(self.store_request & store_free)),
        ]
        with m.If(self.read):
            m.d.comb += [self.enable.eq(1), self.address.eq(self.epilogue_address)]
        with m.Elif(self.write):
            m.d.comb += [self.enable.eq(1), self.is_write.eq(1), self.address.eq(self.epilogue_address)]
            m.d.comb += [self.rows.eq(~0), self.cols.eq(~0)]
        with m.Elif(border_granted):
            m.d.comb += [self.enable.eq(1), self.address.eq(border_address)]
        with m.Elif(self.store_request & store_free):
            m.d.comb += [self.enable.eq(1), self.address.eq(self.store_address)]
        with m.Elif(self.load_request & load_free):
            m.d.comb += [
                self.enable.eq(1),
                self.is_write.eq(1),
                self.from_load.eq(1),
                self.address.eq(self.load_address),
                self.rows.eq(1 << self.load_row),
                self.cols.eq(1 << self.load_col),
            ]
        return m
