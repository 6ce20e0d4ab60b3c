// A chip compiled by Yosys' CXXRTL, behind the driver's interface. simulation_top.h and memories.inc are generated beside.

#include "simulation_top.h"

#include "api.h"

#ifdef HYPERDRIVE_VCD
#include <cxxrtl/cxxrtl_vcd.h>
#include <fstream>
#endif

class CxxrtlDesign {
    // One evaluation per cycle: the clock input stays high, and the generated code is changed so that it sees an edge
    // at every evaluation (simulate/cxxrtl.py). Outputs are registered in SimulationTop, so after commit they are
    // those of the cycle that has passed.
    cxxrtl_design::p_simulation__top top;

public:
    static constexpr int LINK_WIDTH = HYPERDRIVE_LINK_WIDTH;

#ifdef HYPERDRIVE_VCD
    class Waveform {
        cxxrtl::vcd_writer vcd;
        cxxrtl::debug_items items;
        std::ofstream file;
        uint64_t time = 0;

    public:
        explicit Waveform(const char *path) : file(path) { vcd.timescale(1, "ns"); }
        void add(cxxrtl::module &top, const std::string &name) {
            top.debug_info(&items, nullptr, name.empty() ? name : name + " ");
        }
        void sample() {
            if (!time)
                vcd.add_without_memories(items);
            vcd.sample(time++);
            file << vcd.buffer;
            vcd.buffer.clear();
        }
    };
#else
    struct Waveform {
        explicit Waveform(const char *) {}
        void add(cxxrtl::module &, const std::string &) {}
        void sample() {}
    };
#endif

    CxxrtlDesign(Waveform &waveform, const std::string &name) {
        top.p_clk.set<bool>(true);
        waveform.add(top, name);
    }

    void position(int row, int col, unsigned neighbours) {
        top.p_mesh__row.set<uint8_t>(row);
        top.p_mesh__col.set<uint8_t>(col);
#if HYPERDRIVE_LINK_WIDTH
        top.p_neighbours.set<uint8_t>(neighbours);
#else
        (void)neighbours;
#endif
    }
    void reset(bool on) { top.p_rst.set<bool>(on); }
    void program(bool valid, uint64_t payload) {
        top.p_program____valid.set<bool>(valid);
        top.p_program____payload.set<uint64_t>(payload);
    }
    void fm_in(bool valid, uint16_t payload) {
        top.p_fm__in____valid.set<bool>(valid);
        top.p_fm__in____payload.set<uint16_t>(payload);
    }
    void fm_out(bool ready) { top.p_fm__out____ready.set<bool>(ready); }

#if HYPERDRIVE_LINK_WIDTH
    void receive(int side, Beat beat) {
        switch (side) {
#define DO(SIDE, side)                                                                                                 \
    case SIDE:                                                                                                         \
        top.p_##side##____rx____valid.set<bool>(beat.valid);                                                           \
        top.p_##side##____rx____data.set<uint16_t>(beat.data);                                                         \
        break;
            HYPERDRIVE_SIDES(DO)
#undef DO
        }
    }
    Beat sent(int side) const {
        switch (side) {
#define DO(SIDE, side)                                                                                                 \
    case SIDE:                                                                                                         \
        return {top.p_##side##____tx____valid.curr.get<bool>(), top.p_##side##____tx____data.curr.get<uint16_t>()};
            HYPERDRIVE_SIDES(DO)
#undef DO
        }
        return {};
    }
#endif

    void evaluate() {
        top.eval();
        top.commit();
    }

    Outputs outputs() const {
        Outputs seen;
        seen.program_ready = top.p_seen____program__ready.curr.get<bool>();
        seen.fm_in_ready = top.p_seen____fm__in__ready.curr.get<bool>();
        seen.fm_out_valid = top.p_seen____fm__out__valid.curr.get<bool>();
        seen.fm_out_payload = top.p_seen____fm__out__payload.curr.get<uint16_t>();
        seen.layer_done = top.p_seen____layer__done.curr.get<bool>();
        seen.halted = top.p_seen____halted.curr.get<bool>();
        seen.error = top.p_seen____error.curr.get<uint32_t>();
        seen.computing = top.p_seen____computing.curr.get<bool>();
        seen.loading = top.p_seen____loading.curr.get<bool>();
        seen.storing = top.p_seen____storing.curr.get<bool>();
        seen.mac = top.p_seen____mac.curr.get<bool>();
        seen.starved = top.p_seen____starved.curr.get<bool>();
        seen.epilogue = top.p_seen____epilogue.curr.get<bool>();
#if HYPERDRIVE_LINK_WIDTH
        seen.side = top.p_seen____side.curr.get<uint32_t>();
        seen.fault = top.p_seen____fault.curr.get<uint32_t>();
        seen.border_words = top.p_seen____border__words.curr.get<uint32_t>();
        seen.link_beats = top.p_seen____link__beats.curr.get<uint32_t>();
#endif
        return seen;
    }

    const uint32_t *memory(int bank, int row) {
        switch (bank * HYPERDRIVE_TILE_ROWS + row) {
#include "memories.inc"
        }
        return nullptr;
    }
};

HYPERDRIVE_API(CxxrtlDesign)
