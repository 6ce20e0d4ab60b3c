// A chip compiled by Verilator, behind the driver's interface. The V* headers and memories.inc are generated beside.

#include "Vsimulation_top.h"
#include "Vsimulation_top___024root.h"

#include "api.h"

#include <memory>
#include <string>
#include <vector>

#ifdef HYPERDRIVE_VCD
#include "verilated_vcd_c.h"
#endif

class VerilatorDesign {
    // Outputs are registered in SimulationTop: after the rising edge they are those of the cycle that has passed.
    using Top = Vsimulation_top;

public:
    static constexpr int LINK_WIDTH = HYPERDRIVE_LINK_WIDTH;

#ifdef HYPERDRIVE_VCD
    class Waveform {
        VerilatedContext context;
        VerilatedVcdC vcd;
        std::string path;
        std::vector<Top *> tops;

    public:
        explicit Waveform(const char *path) : path(path) { context.traceEverOn(true); }
        ~Waveform() { vcd.close(); }
        std::unique_ptr<Top> add(const std::string &name) {
            auto top = std::make_unique<Top>(&context, name.empty() ? "TOP" : name.c_str());
            top->trace(&vcd, 99);
            tops.push_back(top.get());
            return top;
        }
        void sample() {
            if (!vcd.isOpen())
                vcd.open(path.c_str());
            for (int level : {1, 0}) {
                for (Top *top : tops)
                    top->clk = level;
                vcd.dump(context.time());
                context.timeInc(1);
            }
        }
    };
#else
    struct Waveform {
        explicit Waveform(const char *) {}
        void sample() {}
    };
#endif

private:
#ifdef HYPERDRIVE_VCD
    std::unique_ptr<Top> top;
#else
    VerilatedContext context;
    std::unique_ptr<Top> top;
#endif

public:
#ifdef HYPERDRIVE_VCD
    VerilatorDesign(Waveform &waveform, const std::string &name) : top(waveform.add(name)) {}
#else
    VerilatorDesign(Waveform &, const std::string &) {
        context.randReset(0);
        top = std::make_unique<Top>(&context);
    }
#endif
    ~VerilatorDesign() { top->final(); }

    void position(int row, int col, unsigned neighbours) {
        top->mesh_row = row;
        top->mesh_col = col;
#if HYPERDRIVE_LINK_WIDTH
        top->neighbours = neighbours;
#else
        (void)neighbours;
#endif
    }
    void reset(bool on) { top->rst = on; }
    void program(bool valid, uint64_t payload) {
        top->program___05Fvalid = valid;
        top->program___05Fpayload = payload;
    }
    void fm_in(bool valid, uint16_t payload) {
        top->fm_in___05Fvalid = valid;
        top->fm_in___05Fpayload = payload;
    }
    void fm_out(bool ready) { top->fm_out___05Fready = ready; }

#if HYPERDRIVE_LINK_WIDTH
    void receive(int side, Beat beat) {
        switch (side) {
#define DO(SIDE, side)                                                                                                 \
    case SIDE:                                                                                                         \
        top->side##___05Frx___05Fvalid = beat.valid;                                                                   \
        top->side##___05Frx___05Fdata = beat.data;                                                                     \
        break;
            HYPERDRIVE_SIDES(DO)
#undef DO
        }
    }
    Beat sent(int side) const {
        switch (side) {
#define DO(SIDE, side)                                                                                                 \
    case SIDE:                                                                                                         \
        return {bool(top->side##___05Ftx___05Fvalid), uint16_t(top->side##___05Ftx___05Fdata)};
            HYPERDRIVE_SIDES(DO)
#undef DO
        }
        return {};
    }
#endif

    void evaluate() {
        for (int level = 0; level < 2; ++level) {
            top->clk = level;
            top->eval();
        }
    }

    Outputs outputs() const {
        Outputs seen;
        seen.program_ready = top->seen___05Fprogram_ready;
        seen.fm_in_ready = top->seen___05Ffm_in_ready;
        seen.fm_out_valid = top->seen___05Ffm_out_valid;
        seen.fm_out_payload = top->seen___05Ffm_out_payload;
        seen.layer_done = top->seen___05Flayer_done;
        seen.halted = top->seen___05Fhalted;
        seen.error = top->seen___05Ferror;
        seen.computing = top->seen___05Fcomputing;
        seen.loading = top->seen___05Floading;
        seen.storing = top->seen___05Fstoring;
        seen.mac = top->seen___05Fmac;
        seen.starved = top->seen___05Fstarved;
        seen.epilogue = top->seen___05Fepilogue;
#if HYPERDRIVE_LINK_WIDTH
        seen.side = top->seen___05Fside;
        seen.fault = top->seen___05Ffault;
        seen.border_words = top->seen___05Fborder_words;
        seen.link_beats = top->seen___05Flink_beats;
#endif
        return seen;
    }

    const uint32_t *memory(int bank, int row) {
        auto *root = top->rootp;
        switch (bank * HYPERDRIVE_TILE_ROWS + row) {
#include "memories.inc"
        }
        return nullptr;
    }
};

double sc_time_stamp() { return 0; }

HYPERDRIVE_API(VerilatorDesign)
