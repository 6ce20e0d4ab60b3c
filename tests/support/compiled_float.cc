// A 16-bit floating-point adder or multiplier (compiled_unit.py): operands, an oracle, comparison.
//
// The oracle is one float32 operation of the processor and the rounding of its result. That rounds twice, which
// is harmless. Sums: 24 bits of significand are no less than 2 x 11 + 2, and below the normal range sums are
// exact. Products are exact in float32, but for those of bfloat16 with bits below 2^-149; being of 16 bits, they
// are less than 2^-134, half of bfloat16's smallest number, and no more than that in float32: 0 either way.

#if MANTISSA_BITS == 7

#define HAVE_ORACLE 1
static inline float to_float_with_subnormals(uint16_t word) {
  uint32_t bits = (uint32_t)word << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
// Nearest even: just under a half more, and one more where the last bit is odd; a carry is the exponent's.
static inline uint16_t to_word(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  return (bits & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded;
}

#else

#if defined(__F16C__)
#include <immintrin.h>
#define HAVE_ORACLE 1
static inline float to_float_with_subnormals(uint16_t word) { return _cvtsh_ss(word); }
static inline uint16_t to_half(float value) { return _cvtss_sh(value, 0); }
#elif defined(__FLT16_MAX__)
#define HAVE_ORACLE 1
static inline float to_float_with_subnormals(uint16_t word) {
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
#define HAVE_ORACLE 0
static inline float to_float_with_subnormals(uint16_t) { return 0; }
static inline uint16_t to_half(float) { return 0; }
#endif
static inline uint16_t to_word(float value) { return value != value ? 0x7E00 : to_half(value); }

#endif

static const int EXPONENTS = 1 << (15 - MANTISSA_BITS);
static const uint16_t SMALLEST_NORMAL = 1 << MANTISSA_BITS;

static inline float to_float(uint16_t word) {
  bool zero = FLUSH && (word & 0x7FFF) < SMALLEST_NORMAL;
  return to_float_with_subnormals(zero ? word & 0x8000 : word);
}

// Subnormal sums become +0, subnormal products keep their sign. A sum of two -0 is not subnormal.
static inline uint16_t flushed(uint16_t word) {
#if defined(OPERATION_MULTIPLY)
  uint16_t zero = word & 0x8000;
#else
  uint16_t zero = word == 0x8000 ? 0x8000 : 0;
#endif
  return FLUSH && (word & 0x7FFF) < SMALLEST_NORMAL ? zero : word;
}

static inline float operate(float a, float b) {
#if defined(OPERATION_MULTIPLY)
  return a * b;
#else
  return a + b;
#endif
}

static inline uint16_t expected(uint16_t a, uint16_t b, [[maybe_unused]] uint16_t subtract) {
  float value = to_float(b);
#if defined(OPERATION_ADD)
  if (subtract) value = -value;
#endif
  return flushed(to_word(operate(to_float(a), value)));
}

struct failure {
  uint16_t a, b, subtract, result, expected;
};

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
      case 0: dense &= mask; break;
      case 1: dense |= mask; break;
    }
    return dense & (SMALLEST_NORMAL - 1);
  }

  void pair(uint16_t &a, uint16_t &b, uint16_t &subtract) {
    uint64_t random = next();
    unsigned signs = index & 7;
    int difference = (int)((index >> 3) % (2 * EXPONENTS - 1)) - (EXPONENTS - 1);
    index++;
    int distance = difference < 0 ? -difference : difference;
    int low = (int)((random >> 48) % (EXPONENTS - distance));
    int a_exponent = difference > 0 ? low + distance : low, b_exponent = a_exponent - difference;
    a = (signs & 1) << 15 | a_exponent << MANTISSA_BITS | fraction(random);
    b = (signs >> 1 & 1) << 15 | b_exponent << MANTISSA_BITS | fraction(random >> 22);
    subtract = signs >> 2;
  }
};

extern "C" {

// 1 if there is an oracle.
int oracle(const uint16_t *a, const uint16_t *b, const uint16_t *subtract, uint16_t *result, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) result[i] = expected(a[i], b[i], subtract[i]);
  return HAVE_ORACLE;
}

void random_operands(uint64_t seed, uint64_t count, uint16_t *a, uint16_t *b, uint16_t *subtract) {
  generator operands{seed};
  for (uint64_t i = 0; i < count; i++) operands.pair(a[i], b[i], subtract[i]);
}

uint64_t check_random(uint64_t seed, uint64_t count, failure *first) {
  unit dut;
  generator operands{seed};
  static thread_local uint64_t in[3][BLOCK], out[OUTPUTS][BLOCK];  // the last one is not the multiplier's
  uint64_t failures = 0;
  for (uint64_t done = 0; done < count; done += BLOCK) {
    uint64_t size = count - done < BLOCK ? count - done : BLOCK;
    for (uint64_t i = 0; i < size; i++) {
      uint16_t a, b, subtract;
      operands.pair(a, b, subtract);
      in[0][i] = a, in[1][i] = b, in[2][i] = subtract;
    }
    run(dut, in, out);
    for (uint64_t i = 0; i < size; i++) {
      uint16_t a = in[0][i], b = in[1][i], subtract = in[2][i], result = out[0][i];
      uint16_t right = expected(a, b, subtract);
      if (result != right && failures++ == 0) *first = {a, b, subtract, result, right};
    }
  }
  return failures;
}

#if defined(UNIT_GATES)

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

// Results for one `a` and a block of `b`.
static inline void expected_block(float a, const float *b, uint16_t *right) {
#if MANTISSA_BITS == 10 && defined(__F16C__)
  const __m256 quiet = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FC00000)), x = _mm256_set1_ps(a);
  for (int i = 0; i < BLOCK; i += 8) {
    __m256 y = _mm256_loadu_ps(b + i);
#if defined(OPERATION_MULTIPLY)
    __m256 value = _mm256_mul_ps(x, y);
#else
    __m256 value = _mm256_add_ps(x, y);
#endif
    value = _mm256_blendv_ps(value, quiet, _mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    _mm_storeu_si128((__m128i *)(right + i), _mm256_cvtps_ph(value, 0));
  }
#else
  for (int i = 0; i < BLOCK; i++) right[i] = to_word(operate(a, b[i]));
#endif
  if (FLUSH)
    for (int i = 0; i < BLOCK; i++) right[i] = flushed(right[i]);
}

// All b, for a from `begin` to `end` - 1.
uint64_t check_all(uint32_t begin, uint32_t end, uint32_t subtract, failure *first) {
  // Of b, 512 words at a time, bits 0 to 8 are the same vectors always, the others all ones or all zeros.
  vector bits[33], low_bits[16], result[16];
  const vector zero = {}, ones = ~zero;
  uint16_t numbers[16][32];
  for (int i = 0; i < BLOCK; i++) numbers[i % 16][i / 16] = i;
  memcpy(low_bits, numbers, sizeof numbers);
  transpose(low_bits);
  bits[32] = subtract ? ones : zero;
  uint64_t failures = 0;
  // Operands b as float32, in the order that results have: b_values[block][row][lane].
  static thread_local float b_values[65536];
  for (uint32_t i = 0; i < 65536; i++) {
    float value = to_float(i);
    b_values[(i & ~511u) | (i % 16) * 32 | (i % 512) / 16] = subtract ? -value : value;
  }
  for (uint32_t a = begin; a < end; a++) {
    float a_value = to_float(a);
    for (int bit = 0; bit < 16; bit++) bits[bit] = a >> bit & 1 ? ones : zero;
    for (uint32_t block = 0; block < 65536; block += BLOCK) {
      for (int bit = 0; bit < 16; bit++)
        bits[16 + bit] = bit < 9 ? low_bits[bit] : block >> bit & 1 ? ones : zero;
      gates(bits, result);
      transpose(result);
      uint16_t right[BLOCK];
      expected_block(a_value, b_values + block, right);
      if (memcmp(result, right, sizeof right) == 0) continue;
      uint16_t got[BLOCK];
      memcpy(got, result, sizeof got);
      for (int i = 0; i < BLOCK; i++) {
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
