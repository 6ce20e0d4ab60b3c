// What Python says of a run, and what it is told: the structures of compiled.py and backend.py, field by field.

#pragma once

#include <cstdint>

enum Event : int { RUNNING, LAYER_DONE, HALTED, ERROR, STUCK, OVERRUN };

enum Side { NORTH, EAST, SOUTH, WEST, SIDES };
#define HYPERDRIVE_SIDES(DO) DO(NORTH, north) DO(EAST, east) DO(SOUTH, south) DO(WEST, west)

// Of one chip; the order of class Counters.
struct Counters {
    uint64_t cycles, computing, loading, storing, load_exposed, store_exposed, mac, starved, epilogue, layers;
    uint64_t border_words, link_beats, error, side, fault;
};

struct ChipPlan {
    const uint16_t *fm_in;
    uint64_t fm_in_words;
    uint16_t *fm_out;
    uint64_t fm_out_words;
};

// class LinkFaultInjection
struct LinkFault {
    enum Action : uint64_t { FLIP, DROP, REPEAT, HOLD };
    uint64_t chip, side, action, cycle, border_beat, mask, cycles;
};

// class ChipFault
struct ChipFault {
    enum Action : uint64_t { RESET, STALL };
    uint64_t chip, action, cycle, cycles;
};

struct Plan {
    const uint64_t *program;
    uint64_t program_words;
    const ChipPlan *chips; // rows x cols of them
    uint64_t rows, cols, first_row, first_col;
    int64_t stall_seed;
    uint64_t patience, link_latency;
    const LinkFault *link_faults;
    uint64_t link_fault_count;
    const ChipFault *chip_faults;
    uint64_t chip_fault_count;
    uint64_t threads;
    const char *vcd;
};
