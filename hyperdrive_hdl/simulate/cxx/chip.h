// Drives one chip of a mesh: feeds its streams, counts its cycles, tells events.
//
// A simulator provides a type Design, one simulated chip, with: Design(waveform, name); position(row, col, neighbours),
// program(valid, payload), fm_in(valid, payload), fm_out(ready), receive(side, beat): set inputs; reset(on);
// evaluate(): one clock cycle; outputs() and sent(side): as they were in that cycle, before its edge;
// memory(bank, row): words of one SRAM, now; LINK_WIDTH, 0 where there are no links; Waveform: of a whole mesh.

#pragma once

#include "link.h"
#include "plan.h"
#include "stalls.h"

#include <cstddef>
#include <string>
#include <vector>

struct Outputs {
    bool program_ready, fm_in_ready, fm_out_valid;
    uint16_t fm_out_payload;
    bool layer_done, halted, computing, loading, storing, mac, starved, epilogue;
    uint32_t error, side = 0, fault = 0, border_words = 0, link_beats = 0;
};

constexpr uint32_t STREAMS_PER_CHIP = 8; // numbers of random patterns: three streams, four links from number 4 on

template <class Design> class Chip {
    Design design;
    const uint64_t *program;
    size_t program_words, program_at = 0;
    ChipPlan plan;
    size_t fm_in_at = 0;
    StallPattern program_stalls, fm_in_stalls, fm_out_stalls;
    bool program_offered = false, fm_in_offered = false;
    std::vector<ChipFault> faults;

public:
    Counters counters{};
    size_t fm_out_at = 0;
    bool moved = false, halted = false;
    Event event = RUNNING;

    Chip(const Plan &run, size_t index, typename Design::Waveform &waveform, const std::string &name)
        : design(waveform, name), program(run.program), program_words(run.program_words), plan(run.chips[index]),
          program_stalls(run.stall_seed, STREAMS_PER_CHIP * index),
          fm_in_stalls(run.stall_seed, STREAMS_PER_CHIP * index + 1),
          fm_out_stalls(run.stall_seed, STREAMS_PER_CHIP * index + 2) {
        size_t row = index / run.cols, col = index % run.cols;
        unsigned neighbours = (row > 0) << NORTH | (col + 1 < run.cols) << EAST | (row + 1 < run.rows) << SOUTH |
                              (col > 0) << WEST;
        design.position(run.first_row + row, run.first_col + col, neighbours);
        for (size_t i = 0; i < run.chip_fault_count; ++i)
            if (run.chip_faults[i].chip == index)
                faults.push_back(run.chip_faults[i]);
        design.program(false, 0);
        design.fm_in(false, 0);
        design.fm_out(false);
        design.reset(true);
        design.evaluate();
        design.reset(false);
    }

    const uint32_t *memory(int bank, int row) { return design.memory(bank, row); }
    Beat sent(int side) const { return design.sent(side); }
    void receive(int side, Beat beat) { design.receive(side, beat); }

    void step(uint64_t cycle) {
        bool stalled = false, reset = false;
        for (const ChipFault &fault : faults)
            if (fault.cycle <= cycle && cycle < fault.cycle + fault.cycles)
                (fault.action == ChipFault::RESET ? reset : stalled) = true;
        if (!faults.empty())
            design.reset(reset);
        bool held = program_stalls.step() || stalled;
        program_offered = !reset && program_at < program_words && (program_offered || !held);
        held = fm_in_stalls.step() || stalled;
        fm_in_offered = !reset && fm_in_at < plan.fm_in_words && (fm_in_offered || !held);
        held = fm_out_stalls.step() || stalled;
        bool ready = !reset && !held;
        design.program(program_offered, program_offered ? program[program_at] : 0);
        design.fm_in(fm_in_offered, fm_in_offered ? plan.fm_in[fm_in_at] : 0);
        design.fm_out(ready);
        design.evaluate();
        if (!halted)
            counters.cycles++;
        event = RUNNING;
        moved = reset || stalled; // a fault from outside is not the chip's
        if (!reset)
            account(design.outputs(), ready);
    }

private:
    void account(const Outputs &seen, bool ready) {
        if (!halted) {
            counters.computing += seen.computing;
            counters.loading += seen.loading;
            counters.storing += seen.storing;
            counters.load_exposed += seen.loading && !seen.computing;
            counters.store_exposed += seen.storing && !seen.computing && !seen.loading;
            counters.mac += seen.mac;
            counters.starved += seen.starved;
            counters.epilogue += seen.epilogue;
            counters.layers += seen.layer_done;
        }
        counters.border_words += seen.border_words;
        counters.link_beats += seen.link_beats;
        counters.error = seen.error;
        counters.side = seen.side;
        counters.fault = seen.fault;
        moved |= seen.mac || seen.epilogue || seen.border_words || seen.link_beats;
        event = seen.error ? ERROR : seen.layer_done ? LAYER_DONE : RUNNING;
        halted |= seen.halted;
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
            if (fm_out_at == plan.fm_out_words) {
                event = OVERRUN;
                return;
            }
            plan.fm_out[fm_out_at++] = seen.fm_out_payload;
            moved = true;
        }
    }
};
