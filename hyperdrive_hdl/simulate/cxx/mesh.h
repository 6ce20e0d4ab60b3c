// A mesh of equal chips, one or many, cycle by cycle: every chip makes its step, then the wires carry what the chips
// have sent to their neighbours. The chips are shared out among threads, which meet between the two. What is computed
// does not depend on how many there are.

#pragma once

#include "chip.h"
#include "crew.h"

#include <memory>

struct Happening {
    Event event;
    size_t chip;
};

template <class Design> class Mesh {
    struct Place;
    // Where a wire ends: at a side of a chip. It begins at the opposite side of the neighbour.
    struct End {
        int side;
        const Place *neighbour;
        Wire wire;
    };
    struct Place {
        Chip<Design> chip;
        Beat sent[2][SIDES]; // in even and in odd cycles: a neighbour may look while the next cycle is under way
        std::vector<End> ends;

        Place(const Plan &plan, size_t index, typename Design::Waveform &waveform, const std::string &name)
            : chip(plan, index, waveform, name) {}
    };
    // What a thread shows at the rendezvous: of any of its chips, of any, of all; and that it is time to look up.
    enum Flag : unsigned { EVENT = 1, MOVED = 2, HALTED_ALL = 4, PAUSE = 8 };

    typename Design::Waveform waveform;
    std::vector<std::unique_ptr<Place>> places;
    std::vector<Happening> untold; // of the last cycle, the first one last
    uint64_t patience, cycle = 0, limit = 0, quiet = 0;
    bool stopped = false; // by an event
    Crew crew;

public:
    explicit Mesh(const Plan &plan)
        : waveform(plan.vcd), patience(plan.patience), crew(std::min(plan.threads, plan.rows * plan.cols)) {
        for (size_t index = 0; index < plan.rows * plan.cols; ++index)
            places.push_back(std::make_unique<Place>(plan, index, waveform, name(plan, index)));
        if constexpr (Design::LINK_WIDTH > 0)
            for (size_t index = 0; index < places.size(); ++index)
                connect(plan, index);
    }

    Chip<Design> &chip(size_t index) { return places[index]->chip; }

    Happening run(uint64_t cycles) {
        if (untold.empty())
            advance(cycles);
        if (untold.empty())
            return {RUNNING, 0};
        Happening first = untold.back();
        untold.pop_back();
        return first;
    }

private:
    static std::string name(const Plan &plan, size_t index) {
        if (plan.rows * plan.cols == 1)
            return "";
        return "chip" + std::to_string(index / plan.cols) + "_" + std::to_string(index % plan.cols);
    }

    void connect(const Plan &plan, size_t index) {
        size_t row = index / plan.cols, col = index % plan.cols;
        const bool there[SIDES] = {row > 0, col + 1 < plan.cols, row + 1 < plan.rows, col > 0};
        const size_t other[SIDES] = {index - plan.cols, index + 1, index + plan.cols, index - 1};
        for (int side = 0; side < SIDES; ++side) {
            if (!there[side])
                continue;
            std::vector<LinkFault> faults;
            for (uint64_t i = 0; i < plan.link_fault_count; ++i)
                if (plan.link_faults[i].chip == other[side] && plan.link_faults[i].side == uint64_t(opposite(side)))
                    faults.push_back(plan.link_faults[i]);
            Wire wire(plan.link_latency, plan.stall_seed, STREAMS_PER_CHIP * index + 4 + side, Design::LINK_WIDTH,
                      std::move(faults));
            places[index]->ends.push_back({side, places[other[side]].get(), std::move(wire)});
        }
    }

    static int opposite(int side) { return (side + 2) % SIDES; }

    void advance(uint64_t cycles) {
        limit = cycle + cycles;
        stopped = false;
        while (cycle < limit && !stopped) {
            uint64_t before = cycle;
            crew.window([this](const Share &share) { work(share); }, [&] { return cycle - before; });
        }
        tell();
    }

    // A thread's share of the chips until something happens: all threads stop after the same cycle.
    void work(const Share &share) {
        size_t first = share.thread * places.size() / share.threads;
        size_t last = (share.thread + 1) * places.size() / share.threads;
        uint64_t now = cycle, still = quiet;
        bool event = false, pause = false;
        while (now < limit && !event && !pause) {
            unsigned any = share.is_time(now) ? PAUSE : 0, all = HALTED_ALL;
            for (size_t index = first; index < last; ++index) {
                Place &place = *places[index];
                place.chip.step(now);
                if constexpr (Design::LINK_WIDTH > 0)
                    for (const End &end : place.ends)
                        place.sent[now & 1][end.side] = place.chip.sent(end.side);
                any |= (place.chip.event != RUNNING ? EVENT : 0) | (place.chip.moved ? MOVED : 0);
                all &= place.chip.halted ? HALTED_ALL : 0;
            }
            waveform.sample();
            share.meet(now, any, all);
            if constexpr (Design::LINK_WIDTH > 0)
                for (size_t index = first; index < last; ++index)
                    for (End &end : places[index]->ends)
                        places[index]->chip.receive(
                            end.side, end.wire.step(now, end.neighbour->sent[now & 1][opposite(end.side)]));
            ++now;
            still = any & MOVED ? 0 : still + 1;
            event = any & EVENT || all & HALTED_ALL || still > patience;
            pause = any & PAUSE;
        }
        if (share.thread == 0) {
            cycle = now;
            quiet = still;
            stopped = event;
        }
    }

    void tell() {
        size_t waiting = 0;
        while (waiting + 1 < places.size() && places[waiting]->chip.halted)
            ++waiting;
        bool halted = places[waiting]->chip.halted;
        if (halted)
            untold.push_back({HALTED, waiting});
        else if (quiet > patience)
            untold.push_back({STUCK, waiting});
        for (size_t index = places.size(); index-- > 0;) {
            Chip<Design> &chip = places[index]->chip;
            if (chip.event != RUNNING)
                untold.push_back({chip.event, index});
            chip.event = RUNNING;
            if (halted)
                chip.halted = false; // it may be given another program
        }
    }
};
