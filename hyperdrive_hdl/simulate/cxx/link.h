// The wire of one link in one direction: hyperdrive_hdl/simulate/wire.py, beat by beat.

#pragma once

#include "plan.h"
#include "stalls.h"

#include <deque>
#include <vector>

struct Beat {
    bool valid = false;
    uint16_t data = 0;
};

// Delays beats, in order. The delay changes, and a held line begins to hold, only between frames; of the idle beats
// between two frames one always stays.
class Wire {
    size_t base;
    Drift drift;
    std::vector<LinkFault> faults; // those to come, in order
    uint64_t held = 0;
    bool in_frame = false, border = false;
    uint32_t kind_bits = 0, width;
    uint64_t border_beats = 0;
    std::deque<Beat> under_way;

public:
    // latency: cycles from the neighbour's output to this chip's input, at least 1.
    Wire(uint64_t latency, int64_t seed, uint32_t stream, uint32_t width, std::vector<LinkFault> given)
        : base(latency - 1), drift(seed, stream), faults(std::move(given)), width(width) {
        if (!faults.empty() && !base)
            base = 1; // a beat can be lost without a gap only if another one is waiting
    }

    Beat step(uint64_t cycle, Beat sent) {
        if (!base && !drift.drifts())
            return sent;
        int copies = faults.empty() ? 1 : disturbed(cycle, sent);
        for (; copies; --copies)
            under_way.push_back(sent);
        size_t target = base + drift.step();
        if (under_way.empty())
            return {};
        if (!under_way.front().valid) {
            if (held) {
                --held;
                return {};
            }
            if (under_way.size() <= target)
                return {};
            if (under_way.size() > target + 1 && !under_way[1].valid)
                under_way.pop_front();
        }
        Beat arrives = under_way.front();
        under_way.pop_front();
        return arrives;
    }

private:
    // The beat with what befalls it; how many of it go on.
    int disturbed(uint64_t cycle, Beat &sent) {
        follow(sent);
        const LinkFault &next = faults.front();
        if (!sent.valid || cycle < next.cycle || border_beats < next.border_beat)
            return 1;
        int copies = 1;
        if (next.action == LinkFault::FLIP)
            sent.data ^= next.mask;
        else if (next.action == LinkFault::DROP)
            copies = 0;
        else if (next.action == LinkFault::REPEAT)
            copies = 2;
        else
            held = next.cycles;
        faults.erase(faults.begin());
        return copies;
    }

    // Counts beats of border frames, from the one on that completes the two bits of the frame's kind.
    void follow(const Beat &sent) {
        if (!sent.valid) {
            in_frame = false;
            return;
        }
        if (!in_frame) {
            in_frame = true;
            border = false;
            kind_bits = 0;
        }
        if (kind_bits < 2) {
            uint32_t top = width == 1 ? sent.data & 1 : sent.data >> (width - 2) & 3;
            border |= top != 0;
            kind_bits += width;
        }
        border_beats += border;
    }
};
