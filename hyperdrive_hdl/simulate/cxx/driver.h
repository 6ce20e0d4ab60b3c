// Drives one simulated chip: feeds its streams, counts its cycles, stops at events. The loop is here, not in
// Python, because a cycle of a small chip takes less time than a call from Python.
//
// A simulator provides a type Design with: program(valid, payload), fm_in(valid, payload), fm_out(ready): set inputs;
// position(row, col); reset(on); evaluate(): one clock cycle; outputs(): as they were in that cycle, before its edge;
// memory(bank, row): words of one SRAM, now.

#pragma once

#include <cstddef>
#include <cstdint>

enum Event : int { RUNNING, LAYER_DONE, HALTED, ERROR, STUCK, OVERRUN };

// The order of hyperdrive_hdl/simulate/backend.py, class Counters.
struct Counters {
    uint64_t cycles, computing, loading, storing, load_exposed, store_exposed, mac, starved, epilogue, layers, error;
};

struct Outputs {
    bool program_ready, fm_in_ready, fm_out_valid;
    uint16_t fm_out_payload;
    bool layer_done, halted, computing, loading, storing, mac, starved, epilogue;
    uint32_t error;
};

// hyperdrive_hdl/simulate/stalls.py
class StallPattern {
    bool active;
    uint32_t state, threshold = 0;
    uint64_t cycle = 0;

public:
    StallPattern(int64_t seed, uint32_t stream)
        : active(seed >= 0), state(uint32_t(seed < 0 ? 0 : seed) * 2654435761u + stream * 40503u + 1u) {
        if (!state)
            state = 1;
    }

    bool step() {
        static const uint32_t thresholds[4] = {0, 64, 160, 250};
        if (!active)
            return false;
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        if ((cycle++ & 31) == 0)
            threshold = thresholds[state >> 30];
        return (state >> 8 & 0xff) < threshold;
    }
};

template <class Design> class Driver {
    Design design;
    const uint64_t *program;
    size_t program_words, program_at = 0;
    const uint16_t *fm_in;
    size_t fm_in_words, fm_in_at = 0;
    uint16_t *fm_out;
    size_t fm_out_words;
    StallPattern program_stalls, fm_in_stalls, fm_out_stalls;
    bool program_offered = false, fm_in_offered = false;
    uint64_t patience, quiet = 0;

public:
    Counters counters{};
    size_t fm_out_at = 0;

    Driver(const uint64_t *program, size_t program_words, const uint16_t *fm_in, size_t fm_in_words, uint16_t *fm_out,
           size_t fm_out_words, int64_t stall_seed, uint64_t patience, int mesh_row, int mesh_col, const char *vcd)
        : design(vcd), program(program), program_words(program_words), fm_in(fm_in), fm_in_words(fm_in_words),
          fm_out(fm_out), fm_out_words(fm_out_words), program_stalls(stall_seed, 0), fm_in_stalls(stall_seed, 1),
          fm_out_stalls(stall_seed, 2), patience(patience) {
        design.position(mesh_row, mesh_col);
        design.program(false, 0);
        design.fm_in(false, 0);
        design.fm_out(false);
        design.reset(true);
        design.evaluate();
        design.reset(false);
    }

    const uint32_t *memory(int bank, int row) { return design.memory(bank, row); }

    Event run(uint64_t cycles) {
        for (; cycles; --cycles) {
            bool held = program_stalls.step();
            program_offered = program_at < program_words && (program_offered || !held);
            held = fm_in_stalls.step();
            fm_in_offered = fm_in_at < fm_in_words && (fm_in_offered || !held);
            bool ready = !fm_out_stalls.step();
            design.program(program_offered, program_offered ? program[program_at] : 0);
            design.fm_in(fm_in_offered, fm_in_offered ? fm_in[fm_in_at] : 0);
            design.fm_out(ready);
            design.evaluate();
            Event event = account(design.outputs(), ready);
            if (event != RUNNING)
                return event;
        }
        return RUNNING;
    }

private:
    Event account(const Outputs &seen, bool ready) {
        counters.cycles++;
        counters.computing += seen.computing;
        counters.loading += seen.loading;
        counters.storing += seen.storing;
        counters.load_exposed += seen.loading && !seen.computing;
        counters.store_exposed += seen.storing && !seen.computing && !seen.loading;
        counters.mac += seen.mac;
        counters.starved += seen.starved;
        counters.epilogue += seen.epilogue;
        counters.layers += seen.layer_done;
        counters.error = seen.error;
        bool moved = seen.mac || seen.epilogue;
        if (program_offered && seen.program_ready) {
            program_at++;
            program_offered = false;
            moved = true;
        }
        if (fm_in_offered && seen.fm_in_ready) {
            fm_in_at++;
            fm_in_offered = false;
            moved = true;
        }
        if (seen.fm_out_valid && ready) {
            if (fm_out_at == fm_out_words)
                return OVERRUN;
            fm_out[fm_out_at++] = seen.fm_out_payload;
            moved = true;
        }
        quiet = moved ? 0 : quiet + 1;
        if (seen.error)
            return ERROR;
        if (seen.halted)
            return HALTED;
        if (seen.layer_done)
            return LAYER_DONE;
        return quiet > patience ? STUCK : RUNNING;
    }
};
