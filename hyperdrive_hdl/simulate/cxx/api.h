// The C interface that hyperdrive_hdl/simulate/compiled.py calls, the same for every compiled simulator.

#pragma once

#include "mesh.h"

#define HYPERDRIVE_API(Design)                                                                                         \
    extern "C" {                                                                                                       \
    void *hyperdrive_start(const Plan *plan) { return new Mesh<Design>(*plan); }                                       \
    int hyperdrive_run(void *mesh, uint64_t cycles, size_t *chip) {                                                    \
        Happening happening = static_cast<Mesh<Design> *>(mesh)->run(cycles);                                          \
        *chip = happening.chip;                                                                                        \
        return happening.event;                                                                                        \
    }                                                                                                                  \
    const Counters *hyperdrive_counters(void *mesh, size_t chip) {                                                     \
        return &static_cast<Mesh<Design> *>(mesh)->chip(chip).counters;                                                \
    }                                                                                                                  \
    size_t hyperdrive_output_words(void *mesh, size_t chip) {                                                          \
        return static_cast<Mesh<Design> *>(mesh)->chip(chip).fm_out_at;                                                \
    }                                                                                                                  \
    const uint32_t *hyperdrive_memory(void *mesh, size_t chip, int bank, int row) {                                    \
        return static_cast<Mesh<Design> *>(mesh)->chip(chip).memory(bank, row);                                        \
    }                                                                                                                  \
    void hyperdrive_finish(void *mesh) { delete static_cast<Mesh<Design> *>(mesh); }                                   \
    }
