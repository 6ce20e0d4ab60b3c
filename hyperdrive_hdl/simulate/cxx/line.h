// The host's end of a serial line, 8N1, bit by bit; and what befalls the line.

#pragma once

#include <cmath>
#include <cstdint>
#include <deque>
#include <vector>

// Bytes that wait are shifted out, one bit per ``bit`` cycles; idle is high.
class LineSender {
    double bit, edge = 0; // when the next bit begins
    unsigned frame = 0;
    int left = 0; // bits of the byte under way
    bool level = true;

public:
    std::deque<uint8_t> bytes;

    explicit LineSender(double bit) : bit(bit) {}
    bool busy() const { return left || !bytes.empty(); }

    bool step(uint64_t cycle) {
        if (cycle < edge)
            return level;
        if (!left) {
            level = true;
            if (bytes.empty())
                return level;
            frame = bytes.front() << 1 | 0x200;
            bytes.pop_front();
            left = 10;
            if (edge <= double(cycle) - 1) // else back to back, without rounding
                edge = cycle;
        }
        level = frame & 1;
        frame >>= 1;
        left--;
        edge += bit;
        return level;
    }
};

// Samples bits in their middle, as counted from the start bit's edge. A byte whose stop bit is low is lost.
class LineReceiver {
    double bit, sample = 0;
    unsigned frame = 0;
    int left = 0; // samples of the byte under way, the stop bit's among them
    bool low = false; // after a low stop bit, until the line is high

public:
    std::vector<uint8_t> bytes;
    uint64_t framing_errors = 0;

    explicit LineReceiver(double bit) : bit(bit) {}
    bool busy() const { return left; }

    void step(uint64_t cycle, bool level) {
        if (!left) {
            if (level)
                low = false;
            else if (!low) {
                left = 10;
                frame = 0;
                sample = double(cycle) + bit / 2;
            }
            return;
        }
        if (cycle < sample)
            return;
        sample += bit;
        left--;
        if (left == 9 && level) // no start bit any more
            left = 0;
        else if (left && left < 9)
            frame |= level << (8 - left);
        else if (!left && level)
            bytes.push_back(frame);
        else if (!left) {
            framing_errors++;
            low = true;
        }
    }
};

// Inverts the line for a bit's time now and then.
class LineNoise {
    uint64_t state, left = 0, cycles;
    bool on = false;

public:
    LineNoise(uint64_t seed, double bit) : state(2 * seed + 1), cycles(std::llround(bit)) {}

    bool step(double share) { // of the bits
        if (share <= 0)
            return false;
        if (!left--) {
            left = cycles - 1;
            state ^= state << 13; // xorshift64
            state ^= state >> 7;
            state ^= state << 17;
            on = (state * 0x2545F4914F6CDD1Du >> 11) * 0x1p-53 < share;
        }
        return on;
    }
};
