// Random stalls of streams and drifting delays of links: hyperdrive_hdl/simulate/stalls.py, number by number.

#pragma once

#include <cstdint>

class Random {
    uint32_t state;

public:
    Random(int64_t seed, uint32_t stream) : state(uint32_t(seed) * 2654435761u + stream * 40503u + 1u) {
        if (!state)
            state = 1;
    }
    uint32_t step() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        return state;
    }
};

class StallPattern {
    bool active;
    Random random;
    uint32_t threshold = 0;
    uint64_t cycle = 0;

public:
    StallPattern(int64_t seed, uint32_t stream) : active(seed >= 0), random(seed < 0 ? 0 : seed, stream) {}

    bool step() {
        static const uint32_t thresholds[4] = {0, 64, 160, 250};
        if (!active)
            return false;
        uint32_t x = random.step();
        if ((cycle++ & 31) == 0)
            threshold = thresholds[x >> 30];
        return (x >> 8 & 0xff) < threshold;
    }
};

class Drift {
    bool active;
    Random random;
    uint32_t extra = 0;
    uint64_t cycle = 0;

public:
    Drift(int64_t seed, uint32_t stream) : active(seed >= 0), random(seed < 0 ? 0 : seed, stream) {}

    bool drifts() const { return active; }

    uint32_t step() {
        if (active) {
            uint32_t x = random.step();
            if ((cycle++ & 63) == 0)
                extra = x >> 28;
        }
        return extra;
    }
};
