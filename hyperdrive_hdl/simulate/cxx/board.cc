// A board's core compiled by Yosys' CXXRTL, and the C interface that simulate/board.py calls. board_core.h is generated
// beside; with HYPERDRIVE_EDGES its clock has both edges, else the code sees an edge at every evaluation.

#include "board_core.h"

#include "board.h"

class CxxrtlBoard {
    cxxrtl_design::p_board__core top;

    template <size_t Bits> static bool level(const cxxrtl::value<Bits> &pin) { return pin.template get<uint8_t>(); }
    template <size_t Bits> static bool level(const cxxrtl::wire<Bits> &pin) { return level(pin.curr); }

public:
    CxxrtlBoard() { top.p_clk.set<bool>(true); }
    void rx(bool on) { top.p_rx.set<bool>(on); }
    void reset(bool on) { top.p_rst.set<bool>(on); }
    bool tx() const { return level(top.p_tx); }
    bool busy() const { return level(top.p_busy); }
    bool error() const { return level(top.p_error); }

    void evaluate() {
#ifdef HYPERDRIVE_EDGES
        top.p_clk.set<bool>(false);
        top.step();
        top.p_clk.set<bool>(true);
        top.step();
#else
        top.eval();
        top.commit();
#endif
    }
};

using SimulatedBoard = Board<CxxrtlBoard>;

extern "C" {
void *hyperdrive_board_make(const BoardPlan *plan) { return new SimulatedBoard(*plan); }
void hyperdrive_board_serve(void *board, int file) { static_cast<SimulatedBoard *>(board)->serve(file); }
void hyperdrive_board_line(void *board, bool cut, double noise) {
    static_cast<SimulatedBoard *>(board)->cut = cut;
    static_cast<SimulatedBoard *>(board)->noise = noise;
}
void hyperdrive_board_state(void *board, BoardState *state) {
    auto &from = *static_cast<SimulatedBoard *>(board);
    *state = {from.cycles, from.framing_errors, from.busy, from.error};
}
void hyperdrive_board_stop(void *board) { static_cast<SimulatedBoard *>(board)->stop = true; }
void hyperdrive_board_free(void *board) { delete static_cast<SimulatedBoard *>(board); }
}
