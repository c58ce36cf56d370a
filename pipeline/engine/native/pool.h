// One pool of threads for the whole process: every model's forward pass runs on it, one at a time.
//
// A pass is one function run by all threads at once, which meet at barriers inside it. Waiting
// spins first, because the pieces between two barriers last microseconds; between passes threads
// sleep on a futex. After a fork the child starts threads of its own at its first pass.
#pragma once

#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>

namespace bark {

class Pool {
 public:
  using Body = void (*)(void* context, int thread, int num_threads);

  static Pool& instance() {
    // Never destroyed: sleeping threads may outlive the static objects.
    static Pool* pool = [] {
      auto* made = new Pool;
      pthread_atfork(nullptr, nullptr, [] { Pool::instance().forget_threads(); });
      return made;
    }();
    return *pool;
  }

  // Held for a whole pass, so that two callers wait for each other instead of sharing the cores.
  void lock() { pthread_mutex_lock(&mutex_); }
  void unlock() { pthread_mutex_unlock(&mutex_); }

  // Call with the lock held. Threads start at the next pass.
  void resize(int num_threads) {
    if (num_threads > kMaxThreads) num_threads = kMaxThreads;
    if (num_threads == wanted_) return;
    stop_threads();
    wanted_ = num_threads;
  }
  int num_threads() const { return wanted_; }

  // Call with the lock held. Returns when every thread has returned from `body`.
  void run(Body body, void* context) {
    start_threads();
    body_ = body;
    context_ = context;
    finished_.store(0, std::memory_order_relaxed);
    wake_workers();
    note_cpu(0);
    body(context, 0, running_);
    wait_until(0, [this] { return finished_.load(std::memory_order_acquire) == running_ - 1; });
  }

  // Every thread of the pass must come here; none leaves before all have come.
  void barrier(int thread) {
    note_cpu(thread);
    const uint32_t turn = barrier_turn_.load(std::memory_order_relaxed);
    if (barrier_arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == running_) {
      barrier_arrived_.store(0, std::memory_order_relaxed);
      barrier_turn_.store(turn + 1, std::memory_order_release);
      return;
    }
    wait_until(thread, [&] { return barrier_turn_.load(std::memory_order_acquire) != turn; });
  }

 private:
  static constexpr int kMaxThreads = 256;
  static constexpr auto kPatience = std::chrono::microseconds(50);

  // One look at `is_done` after another for about a microsecond.
  template <class Condition>
  static bool spin_until(Condition is_done) {
    for (int i = 0; i < 50; ++i) {
      if (is_done()) return true;
      _mm_pause();
    }
    return is_done();
  }

  // Where other processes want the cores too, the system may put two of these threads on one. Then
  // spinning only keeps the other from its work: measured, a step of 4 ms took 10 ms.
  bool shares_cpu(int thread) const {
    const int mine = sched_getcpu();
    for (int i = 0; i < running_; ++i) {
      if (i != thread && cpus_[i].number.load(std::memory_order_relaxed) == mine) return true;
    }
    return false;
  }

  // Inside a pass. Most waits end while spinning; yielding to another process costs milliseconds.
  template <class Condition>
  void wait_until(int thread, Condition is_done) const {
    if (spin_until(is_done)) return;
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (!spin_until(is_done)) {
      if (shares_cpu(thread) || std::chrono::steady_clock::now() > end) sched_yield();
    }
  }

  // Between passes: true once `is_done`, false when it is time to sleep.
  template <class Condition>
  bool stay_awake_until(int thread, Condition is_done) const {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    do {
      if (spin_until(is_done)) return true;
      if (shares_cpu(thread)) return false;
    } while (std::chrono::steady_clock::now() < end);
    return false;
  }

  void note_cpu(int thread) {
    cpus_[thread].number.store(sched_getcpu(), std::memory_order_relaxed);
  }

  void wake_workers() {
    epoch_.fetch_add(1, std::memory_order_seq_cst);
    if (sleeping_.load(std::memory_order_seq_cst) > 0) {
      syscall(SYS_futex, reinterpret_cast<uint32_t*>(&epoch_), FUTEX_WAKE_PRIVATE, INT_MAX,
              nullptr, nullptr, 0);
    }
  }

  void start_threads() {
    if (running_ == wanted_) return;
    // Signals belong to the interpreter's own threads.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    running_ = 1;
    for (int i = 1; i < wanted_; ++i) {
      starting_index_ = i;
      starting_epoch_ = epoch_.load();
      alive_.fetch_add(1);
      pthread_t thread;
      if (pthread_create(&thread, nullptr, &Pool::worker, this) != 0) {
        alive_.fetch_sub(1);  // fewer threads than wanted still give the same numbers
        break;
      }
      pthread_detach(thread);
      while (starting_index_ != 0) sched_yield();
      ++running_;
    }
    wanted_ = running_;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void stop_threads() {
    if (running_ <= 1) return;
    stopping_ = true;
    wake_workers();
    while (alive_ != 0) sched_yield();
    stopping_ = false;
    running_ = 0;
  }

  static void* worker(void* self) {
    static_cast<Pool*>(self)->serve();
    return nullptr;
  }

  void serve() {
    uint32_t seen = starting_epoch_;
    const int index = starting_index_;
    starting_index_ = 0;
    for (;;) {
      const auto has_work = [&] { return epoch_.load(std::memory_order_seq_cst) != seen; };
      if (!stay_awake_until(index, has_work)) {
        sleeping_.fetch_add(1, std::memory_order_seq_cst);
        while (!has_work()) {
          syscall(SYS_futex, reinterpret_cast<uint32_t*>(&epoch_), FUTEX_WAIT_PRIVATE, seen,
                  nullptr, nullptr, 0);
        }
        sleeping_.fetch_sub(1, std::memory_order_seq_cst);
      }
      ++seen;
      if (stopping_) break;
      note_cpu(index);
      body_(context_, index, running_);
      finished_.fetch_add(1, std::memory_order_release);
    }
    alive_.fetch_sub(1);
  }

  // In a forked child only the forking thread exists, and the lock may have been held by another.
  void forget_threads() {
    pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
    mutex_ = fresh;
    running_ = 0;
    alive_ = 0;
    sleeping_ = 0;
    barrier_arrived_ = 0;
  }

  struct alignas(64) Cpu {
    std::atomic<int> number{-1};
  };

  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  int wanted_ = 1;
  int running_ = 0;
  Body body_ = nullptr;
  void* context_ = nullptr;
  std::atomic<bool> stopping_{false};
  std::atomic<int> starting_index_{0};
  uint32_t starting_epoch_ = 0;
  std::atomic<int> alive_{0};
  Cpu cpus_[kMaxThreads];  // where each thread was last seen
  // Apart from each other, since they are written by different threads while others spin on them.
  alignas(64) std::atomic<uint32_t> epoch_{0};
  alignas(64) std::atomic<int> sleeping_{0};
  alignas(64) std::atomic<int> finished_{0};
  alignas(64) std::atomic<int> barrier_arrived_{0};
  alignas(64) std::atomic<uint32_t> barrier_turn_{0};
};

// The lock of the pool for one scope.
class PoolLock {
 public:
  PoolLock() { Pool::instance().lock(); }
  ~PoolLock() { Pool::instance().unlock(); }
  PoolLock(const PoolLock&) = delete;
  PoolLock& operator=(const PoolLock&) = delete;
};

}  // namespace bark
