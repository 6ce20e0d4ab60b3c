// Around one compiled unit (compiled_unit.py): arrays of operands in, arrays of results out.
//
// ports.inc says how many ports there are and how wide: INPUTS, OUTPUTS, INPUT_WIDTHS, OUTPUT_WIDTHS.

#include <cstdint>
#include <cstring>

static const int BLOCK = 512;  // operands worked on at once

#if defined(UNIT_CXXRTL)

#include "unit.inc"
#include "ports.inc"  // also evaluate_one()

struct unit {
  cxxrtl_design::p_top top;
};

static void run(unit &dut, const uint64_t in[][BLOCK], uint64_t out[][BLOCK]) {
  for (int i = 0; i < BLOCK; i++) evaluate_one(dut.top, in, out, i);
}

#else

typedef uint64_t vector __attribute__((vector_size(64)));
typedef uint16_t words __attribute__((vector_size(64)));

#include "ports.inc"
#include "unit.inc"

struct unit {};

// Bit j of number i becomes bit i of number j.
static void transpose64(uint64_t *a) {
  uint64_t mask = 0x00000000FFFFFFFF;
  for (int step = 32; step; step >>= 1, mask ^= mask << step) {
    for (int i = 0; i < 64; i = ((i | step) + 1) & ~step) {
      uint64_t swap = ((a[i] >> step) ^ a[i | step]) & mask;
      a[i] ^= swap << step;
      a[i | step] ^= swap;
    }
  }
}

static void run(unit &, const uint64_t in[][BLOCK], uint64_t out[][BLOCK]) {
  vector in_bits[64 * INPUTS], out_bits[64 * OUTPUTS];
  uint64_t square[64];
  int base = 0;
  for (int port = 0; port < INPUTS; base += INPUT_WIDTHS[port++]) {
    for (int lane = 0; lane < 8; lane++) {
      memcpy(square, in[port] + 64 * lane, sizeof square);
      transpose64(square);
      for (int bit = 0; bit < INPUT_WIDTHS[port]; bit++) in_bits[base + bit][lane] = square[bit];
    }
  }
  gates(in_bits, out_bits);
  base = 0;
  for (int port = 0; port < OUTPUTS; base += OUTPUT_WIDTHS[port++]) {
    for (int lane = 0; lane < 8; lane++) {
      memset(square, 0, sizeof square);
      for (int bit = 0; bit < OUTPUT_WIDTHS[port]; bit++) square[bit] = out_bits[base + bit][lane];
      transpose64(square);
      memcpy(out[port] + 64 * lane, square, sizeof square);
    }
  }
}

#endif

extern "C" void evaluate(const uint64_t *const *in, uint64_t *const *out, uint64_t count) {
  unit dut;
  static thread_local uint64_t operands[INPUTS][BLOCK], results[OUTPUTS][BLOCK];
  for (uint64_t i = 0; i < count; i += BLOCK) {
    uint64_t size = count - i < BLOCK ? count - i : BLOCK;
    for (int port = 0; port < INPUTS; port++) memcpy(operands[port], in[port] + i, 8 * size);
    run(dut, operands, results);
    for (int port = 0; port < OUTPUTS; port++) memcpy(out[port] + i, results[port], 8 * size);
  }
}

#if defined(OPERATION_ADD) || defined(OPERATION_MULTIPLY)
#include "compiled_float.cc"
#endif
