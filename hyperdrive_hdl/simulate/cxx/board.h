// Plays a board's pins against a file descriptor, the master of a pseudo-terminal, in a thread of its own.
//
// A simulator provides a type Design with: rx(level), reset(on): set inputs; evaluate(): one clock cycle;
// tx(), busy(), error(): outputs.

#pragma once

#include "line.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <poll.h>
#include <unistd.h>

// As in simulate/board.py.
struct BoardPlan {
    double clock_hz;
    double bit; // cycles, at the host's end
    uint64_t seed;
};

struct BoardState {
    uint64_t cycles, framing_errors;
    uint32_t busy, error;
};

template <class Design> class Board {
    static constexpr uint64_t SLICE = 1000;             // cycles between two looks at the file
    static constexpr uint64_t FORGOTTEN = 1 << 22;      // cycles without anything on the line
    static constexpr size_t QUEUED = 4096, READ = 1024; // bytes
    static constexpr int WAIT_MS = 5;

    Design design;
    double clock_hz;
    uint64_t settled; // cycles after which nothing more comes of what was on the line
    LineSender sender;
    LineReceiver receiver;
    LineNoise to_board, from_board;
    uint64_t cycle = 0, skipped = 0, last = 0; // last: when there was something on the line

public:
    std::atomic<bool> stop{false}, cut{false};
    std::atomic<double> noise{0};
    std::atomic<uint64_t> cycles{0}, framing_errors{0}; // cycles: those passed over too
    std::atomic<bool> busy{false}, error{false};

    explicit Board(const BoardPlan &plan)
        : clock_hz(plan.clock_hz), settled(std::max<uint64_t>(4000, 40 * plan.bit)), sender(plan.bit),
          receiver(plan.bit), to_board(2 * plan.seed, plan.bit), from_board(2 * plan.seed + 1, plan.bit) {
        design.rx(true);
        design.reset(true);
        design.evaluate();
        design.evaluate();
        design.reset(false);
    }

    void serve(int file) {
        while (!stop) {
            bool quiet = !sender.busy() && cycle > last + settled;
            if (quiet && (!design.busy() || cycle > last + FORGOTTEN))
                wait(file, design.busy());
            take(file);
            if (quiet && !design.busy() && !sender.busy())
                continue;
            for (uint64_t i = 0; i < SLICE; ++i)
                step();
            give(file);
            tell();
        }
    }

private:
    void step() {
        double share = noise.load(std::memory_order_relaxed);
        bool whole = !cut.load(std::memory_order_relaxed);
        bool sent = sender.step(cycle) ^ to_board.step(share);
        design.rx(!whole || sent);
        design.evaluate();
        bool level = design.tx() || !whole;
        receiver.step(cycle, level ^ (whole && from_board.step(share)));
        if (!level || sender.busy() || receiver.busy())
            last = cycle;
        cycle++;
    }

    // Nothing happens until bytes come: the clock goes on without the board. A busy one goes on, slowly.
    void wait(int file, bool is_busy) {
        auto start = std::chrono::steady_clock::now();
        pollfd entry{file, POLLIN, 0};
        poll(&entry, 1, WAIT_MS);
        std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        if (!is_busy)
            skipped += uint64_t(seconds.count() * clock_hz);
        tell();
    }

    void take(int file) {
        uint8_t data[READ];
        if (sender.bytes.size() > QUEUED)
            return;
        ssize_t count = read(file, data, sizeof data);
        if (count > 0 && !cut)
            sender.bytes.insert(sender.bytes.end(), data, data + count);
    }

    // Where nobody reads, bytes get lost, as on a line.
    void give(int file) {
        if (!receiver.bytes.empty() && !cut)
            (void)!write(file, receiver.bytes.data(), receiver.bytes.size());
        receiver.bytes.clear();
    }

    void tell() {
        cycles = cycle + skipped;
        framing_errors = receiver.framing_errors;
        busy = design.busy();
        error = design.error();
    }
};
