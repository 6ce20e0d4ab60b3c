// The C interface that hyperdrive_hdl/simulate/compiled.py calls, the same for every compiled simulator.

#pragma once

#include "driver.h"

#define HYPERDRIVE_API(Design)                                                                                         \
    extern "C" {                                                                                                       \
    void *hyperdrive_start(const uint64_t *program, size_t program_words, const uint16_t *fm_in, size_t fm_in_words,   \
                           uint16_t *fm_out, size_t fm_out_words, int64_t stall_seed, uint64_t patience, int mesh_row, \
                           int mesh_col, const char *vcd) {                                                            \
        return new Driver<Design>(program, program_words, fm_in, fm_in_words, fm_out, fm_out_words, stall_seed,        \
                                  patience, mesh_row, mesh_col, vcd);                                                  \
    }                                                                                                                  \
    int hyperdrive_run(void *driver, uint64_t cycles) { return static_cast<Driver<Design> *>(driver)->run(cycles); }   \
    const Counters *hyperdrive_counters(void *driver) { return &static_cast<Driver<Design> *>(driver)->counters; }     \
    size_t hyperdrive_output_words(void *driver) { return static_cast<Driver<Design> *>(driver)->fm_out_at; }          \
    const uint32_t *hyperdrive_memory(void *driver, int bank, int row) {                                               \
        return static_cast<Driver<Design> *>(driver)->memory(bank, row);                                               \
    }                                                                                                                  \
    void hyperdrive_finish(void *driver) { delete static_cast<Driver<Design> *>(driver); }                             \
    }
