// Around one compiled arithmetic unit (compiled_unit.py): operands, an oracle, comparison.
//
// The oracle is the compiler's binary16 conversion after one float32 operation. That rounds twice, which is
// harmless: 24 bits of significand are no less than 2 x 11 + 2 (products are even exact in float32).

#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#define HAVE_HALF 1
static inline float to_float(uint16_t word) { return _cvtsh_ss(word); }
static inline uint16_t to_half(float value) { return _cvtss_sh(value, 0); }
#elif defined(__FLT16_MAX__)
#define HAVE_HALF 1
static inline float to_float(uint16_t word) {
  _Float16 value;
  memcpy(&value, &word, 2);
  return (float)value;
}
static inline uint16_t to_half(float value) {
  _Float16 half = (_Float16)value;
  uint16_t word;
  memcpy(&word, &half, 2);
  return word;
}
#else
#define HAVE_HALF 0
static inline float to_float(uint16_t) { return 0; }
static inline uint16_t to_half(float) { return 0; }
#endif

static const uint16_t NOT_A_NUMBER = 0x7E00;

static inline uint16_t expected(uint16_t a, uint16_t b, uint16_t subtract) {
#if defined(OPERATION_MULTIPLY)
  float value = to_float(a) * to_float(b);
#else
  float value = subtract ? to_float(a) - to_float(b) : to_float(a) + to_float(b);
#endif
  return value != value ? NOT_A_NUMBER : to_half(value);
}

struct failure {
  uint16_t a, b, subtract, result, expected;
};

#if defined(UNIT_CXXRTL)

#include "unit.inc"

struct unit {
  cxxrtl_design::p_top top;

  uint16_t operator()(uint16_t a, uint16_t b, uint16_t subtract) {
    top.p_a.set<uint16_t>(a);
    top.p_b.set<uint16_t>(b);
#if defined(OPERATION_ADD)
    top.p_subtract.set<uint16_t>(subtract);
#endif
    top.step();
    return top.p_result.get<uint16_t>();
  }
};

static void run(unit &dut, const uint16_t *a, const uint16_t *b, const uint16_t *subtract, uint16_t *result) {
  for (int i = 0; i < 512; i++) result[i] = dut(a[i], b[i], subtract[i]);
}

#else

typedef uint64_t vector __attribute__((vector_size(64)));
typedef uint16_t words __attribute__((vector_size(64)));

#include "unit.inc"

struct unit {};

// Between 16 vectors, one for each bit of 512 words, and the words: row r, lane l is word 16 l + r. Its own inverse.
static inline void transpose(vector *row) {
  const uint64_t masks[4] = {0x00FF00FF00FF00FF, 0x0F0F0F0F0F0F0F0F, 0x3333333333333333, 0x5555555555555555};
  for (int stage = 0; stage < 4; stage++) {
    int step = 8 >> stage;
    vector mask = masks[stage] - (vector){};
    for (int r = 0; r < 16; r++) {
      if (r & step) continue;
      vector swap = ((row[r] >> step) ^ row[r + step]) & mask;
      row[r + step] ^= swap;
      row[r] ^= swap << step;
    }
  }
}

// Rows as `transpose` has them, from 512 words in order, and back.
static void load(const uint16_t *in, vector *row) {
  uint16_t lanes[16][32];
  for (int i = 0; i < 512; i++) lanes[i % 16][i / 16] = in[i];
  memcpy(row, lanes, sizeof lanes);
  transpose(row);
}

static void run(unit &, const uint16_t *a, const uint16_t *b, const uint16_t *subtract, uint16_t *result) {
  vector a_bits[16], b_bits[16], subtract_bits[16], result_bits[16];
  load(a, a_bits);
  load(b, b_bits);
  load(subtract, subtract_bits);
  gates(a_bits, b_bits, subtract_bits, result_bits);
  transpose(result_bits);
  uint16_t lanes[16][32];
  memcpy(lanes, result_bits, sizeof lanes);
  for (int i = 0; i < 512; i++) result[i] = lanes[i % 16][i / 16];
}

#endif

// Pairs that cover sign combinations and exponent differences evenly, with random, sparse and dense fractions.
struct generator {
  uint64_t state, index = 0;

  uint64_t next() {  // SplitMix64
    uint64_t z = (state += 0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }

  static uint16_t fraction(uint64_t random) {
    uint16_t dense = random & 0x3FF, mask = (random >> 10) & 0x3FF;
    switch ((random >> 20) & 3) {
      case 0: return dense & mask;
      case 1: return dense | mask;
      default: return dense;
    }
  }

  void pair(uint16_t &a, uint16_t &b, uint16_t &subtract) {
    uint64_t random = next();
    unsigned signs = index & 7;
    int difference = (int)((index >> 3) % 63) - 31;
    index++;
    int distance = difference < 0 ? -difference : difference;
    int low = (int)((random >> 48) % (32 - distance));
    int a_exponent = difference > 0 ? low + distance : low, b_exponent = a_exponent - difference;
    a = (signs & 1) << 15 | a_exponent << 10 | fraction(random);
    b = (signs >> 1 & 1) << 15 | b_exponent << 10 | fraction(random >> 22);
    subtract = signs >> 2;
  }
};

extern "C" {

void evaluate(const uint16_t *a, const uint16_t *b, const uint16_t *subtract, uint16_t *result, uint64_t count) {
  unit dut;
  for (uint64_t i = 0; i < count; i += 512) {
    uint64_t size = count - i < 512 ? count - i : 512;
    uint16_t block[4][512] = {};
    memcpy(block[0], a + i, 2 * size);
    memcpy(block[1], b + i, 2 * size);
    memcpy(block[2], subtract + i, 2 * size);
    run(dut, block[0], block[1], block[2], block[3]);
    memcpy(result + i, block[3], 2 * size);
  }
}

// 1 if there is an oracle.
int oracle(const uint16_t *a, const uint16_t *b, const uint16_t *subtract, uint16_t *result, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) result[i] = expected(a[i], b[i], subtract[i]);
  return HAVE_HALF;
}

void random_operands(uint64_t seed, uint64_t count, uint16_t *a, uint16_t *b, uint16_t *subtract) {
  generator operands{seed};
  for (uint64_t i = 0; i < count; i++) operands.pair(a[i], b[i], subtract[i]);
}

uint64_t check_random(uint64_t seed, uint64_t count, failure *first) {
  unit dut;
  generator operands{seed};
  uint64_t failures = 0;
  for (uint64_t done = 0; done < count; done += 512) {
    uint64_t size = count - done < 512 ? count - done : 512;
    uint16_t a[512] = {}, b[512] = {}, subtract[512] = {}, result[512];
    for (uint64_t i = 0; i < size; i++) operands.pair(a[i], b[i], subtract[i]);
    run(dut, a, b, subtract, result);
    for (uint64_t i = 0; i < size; i++) {
      uint16_t right = expected(a[i], b[i], subtract[i]);
      if (result[i] != right && failures++ == 0) *first = {a[i], b[i], subtract[i], result[i], right};
    }
  }
  return failures;
}

#if defined(UNIT_GATES)

// All b, for a from `begin` to `end` - 1.
uint64_t check_all(uint32_t begin, uint32_t end, uint32_t subtract, failure *first) {
  // Of b, 512 words at a time, bits 0 to 8 are the same vectors always, the others all ones or all zeros.
  vector b_bits[16], low_bits[16], a_bits[16], result[16];
  const vector zero = {}, ones = ~zero;
  const vector subtract_bits[1] = {subtract ? ones : zero};
  uint16_t numbers[512];
  for (int i = 0; i < 512; i++) numbers[i] = i;
  load(numbers, low_bits);
  uint64_t failures = 0;
  // Operands b as float32, in the order that results have: b_values[block][row][lane].
  static thread_local float b_values[65536];
  for (uint32_t i = 0; i < 65536; i++) {
    float value = to_float(i);
    b_values[(i & ~511u) | (i % 16) * 32 | (i % 512) / 16] = subtract ? -value : value;
  }
  for (uint32_t a = begin; a < end; a++) {
    float a_value = to_float(a);
    for (int bit = 0; bit < 16; bit++) a_bits[bit] = a >> bit & 1 ? ones : zero;
    for (uint32_t block = 0; block < 65536; block += 512) {
      for (int bit = 0; bit < 16; bit++) b_bits[bit] = bit < 9 ? low_bits[bit] : block >> bit & 1 ? ones : zero;
      gates(a_bits, b_bits, subtract_bits, result);
      transpose(result);
      uint16_t right[512];
      for (int i = 0; i < 512; i += 8) {
#if defined(__F16C__)
        __m256 x = _mm256_set1_ps(a_value), y = _mm256_loadu_ps(b_values + block + i);
#if defined(OPERATION_MULTIPLY)
        __m256 value = _mm256_mul_ps(x, y);
#else
        __m256 value = _mm256_add_ps(x, y);
#endif
        __m256 quiet = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FC00000));
        value = _mm256_blendv_ps(value, quiet, _mm256_cmp_ps(value, value, _CMP_UNORD_Q));
        _mm_storeu_si128((__m128i *)(right + i), _mm256_cvtps_ph(value, 0));
#else
        for (int j = i; j < i + 8; j++) {
#if defined(OPERATION_MULTIPLY)
          float value = a_value * b_values[block + j];
#else
          float value = a_value + b_values[block + j];
#endif
          right[j] = value != value ? NOT_A_NUMBER : to_half(value);
        }
#endif
      }
      if (memcmp(result, right, sizeof right) == 0) continue;
      uint16_t got[512];
      memcpy(got, result, sizeof got);
      for (int i = 0; i < 512; i++) {
        if (got[i] == right[i]) continue;
        uint16_t b = block + (i % 32) * 16 + i / 32;
        if (failures++ == 0) *first = {(uint16_t)a, b, (uint16_t)subtract, got[i], right[i]};
      }
    }
  }
  return failures;
}

#endif

}  // extern "C"
