// A chip compiled by Verilator, behind the driver's interface. The V* headers and memories.inc are generated beside.

#include "Vsimulation_top.h"
#include "Vsimulation_top___024root.h"

#include "api.h"

#include <memory>

#ifdef HYPERDRIVE_VCD
#include "verilated_vcd_c.h"
#endif

class VerilatorDesign {
    // Outputs are registered in SimulationTop: after the rising edge they are those of the cycle that has passed.
    VerilatedContext context;
    std::unique_ptr<Vsimulation_top> top;
#ifdef HYPERDRIVE_VCD
    VerilatedVcdC vcd;
#endif

public:
    explicit VerilatorDesign(const char *path) {
        context.randReset(0);
#ifdef HYPERDRIVE_VCD
        context.traceEverOn(true);
#endif
        top = std::make_unique<Vsimulation_top>(&context);
#ifdef HYPERDRIVE_VCD
        top->trace(&vcd, 99);
        vcd.open(path);
#else
        (void)path;
#endif
    }
    ~VerilatorDesign() {
#ifdef HYPERDRIVE_VCD
        vcd.close();
#endif
        top->final();
    }

    void position(int row, int col) {
        top->mesh_row = row;
        top->mesh_col = col;
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

    void evaluate() {
        for (int level = 0; level < 2; ++level) {
            top->clk = level;
            top->eval();
#ifdef HYPERDRIVE_VCD
            vcd.dump(context.time());
#endif
            context.timeInc(1);
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
