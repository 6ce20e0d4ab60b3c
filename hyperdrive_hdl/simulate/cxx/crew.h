// Threads that share the chips of a mesh and meet once in every cycle.

#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

// Each thread shows the number of its cycle and some flags in a cache line of its own, and waits until all others show
// that cycle: no shared counter, no lock. Two sets of lines in turn, since a thread may be in the next cycle before
// another one has looked.
class Rendezvous {
    static constexpr int SPINS = 1 << 10; // some 20 us; then others may have the core
    static constexpr int FLAG_BITS = 4;
    static constexpr unsigned MASK = (1u << FLAG_BITS) - 1;
    struct alignas(64) Line {
        std::atomic<uint64_t> shown{~uint64_t(0)};
    };
    std::vector<Line> lines[2];

public:
    explicit Rendezvous(size_t threads) : lines{std::vector<Line>(threads), std::vector<Line>(threads)} {}

    // Flags that any thread shows, and those that all do. Cycles count upwards.
    void meet(size_t thread, size_t threads, uint64_t cycle, unsigned &any, unsigned &all) {
        std::vector<Line> &row = lines[cycle & 1];
        row[thread].shown.store(cycle << 2 * FLAG_BITS | any << FLAG_BITS | all, std::memory_order_release);
        for (size_t other = 0; other < threads; ++other) {
            uint64_t shown;
            for (int spins = 0; (shown = row[other].shown.load(std::memory_order_acquire)) >> 2 * FLAG_BITS != cycle;)
                if (++spins < SPINS)
                    pause();
                else
                    std::this_thread::yield();
            any |= shown >> FLAG_BITS & MASK;
            all &= shown & MASK;
        }
    }

private:
    static void pause() {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }
};

using Clock = std::chrono::steady_clock;

// One thread's part in a window of time.
struct Share {
    size_t thread, threads;
    Rendezvous &rendezvous;
    bool timed;            // a window has an end
    Clock::time_point end; // of the window

    // The first thread looks at the clock now and then.
    bool is_time(uint64_t cycle) const { return timed && !(cycle & 15) && Clock::now() >= end; }
    void meet(uint64_t cycle, unsigned &any, unsigned &all) const {
        if (threads > 1)
            rendezvous.meet(thread, threads, cycle, any, all);
    }
};

// Runs windows of some milliseconds, with all threads or with one alone, whichever gets more cycles done: where the
// chips are tiny a rendezvous costs more than it gives, and where other programs want the cores, threads wait for each
// other most of the time. What is not in use is tried again from time to time.
class Crew {
    static constexpr std::chrono::milliseconds WINDOW{10}, TRY_AGAIN{1000};
    struct Way {
        size_t threads;
        double cycles = 0, seconds = 0, rate = 0;
        Clock::time_point measured{};
    };
    std::vector<Way> ways;
    Rendezvous rendezvous;
    std::vector<std::thread> helpers;
    std::mutex mutex;
    std::condition_variable wake;
    std::function<void(const Share &)> work;
    Clock::time_point end;
    uint64_t orders = 0;
    bool ending = false;
    std::atomic<size_t> finished{0};

public:
    explicit Crew(size_t threads) : rendezvous(threads) {
        ways.push_back({1});
        if (threads > 1)
            ways.push_back({threads});
        for (size_t thread = 1; thread < threads; ++thread)
            helpers.emplace_back([this, thread, threads] { help(thread, threads); });
    }

    ~Crew() {
        {
            std::lock_guard<std::mutex> lock(mutex);
            ending = true;
        }
        wake.notify_all();
        for (std::thread &helper : helpers)
            helper.join();
    }

    // Calls part(share) in every thread of the window; afterwards done() tells how many cycles that were.
    template <class Done> void window(std::function<void(const Share &)> part, Done done) {
        Clock::time_point start = Clock::now();
        Way &way = choose(start);
        end = start + WINDOW;
        if (way.threads > 1) {
            finished = 0;
            {
                std::lock_guard<std::mutex> lock(mutex);
                work = part;
                ++orders;
            }
            wake.notify_all();
        }
        part({0, way.threads, rendezvous, !helpers.empty(), end});
        if (way.threads > 1)
            while (finished.load(std::memory_order_acquire) < helpers.size())
                std::this_thread::yield();
        note(way, start, done());
    }

private:
    Way &choose(Clock::time_point now) {
        for (Way &way : ways)
            if (now - way.measured > TRY_AGAIN)
                return way;
        return *std::max_element(ways.begin(), ways.end(), [](const Way &a, const Way &b) { return a.rate < b.rate; });
    }

    // Events cut windows short: a rate counts when as much as a window has come together.
    void note(Way &way, Clock::time_point start, uint64_t cycles) {
        Clock::time_point now = Clock::now();
        way.cycles += cycles;
        way.seconds += std::chrono::duration<double>(now - start).count();
        if (way.seconds < std::chrono::duration<double>(WINDOW).count())
            return;
        way.rate = way.cycles / way.seconds;
        way.cycles = way.seconds = 0;
        way.measured = now;
    }

    void help(size_t thread, size_t threads) {
        for (uint64_t done = 0;; ++done) {
            {
                std::unique_lock<std::mutex> lock(mutex);
                wake.wait(lock, [&] { return ending || orders > done; });
                if (ending)
                    return;
            }
            work({thread, threads, rendezvous, false, end});
            finished.fetch_add(1, std::memory_order_release);
        }
    }
};
