// The three calls of a network: decode, extend, encode.
//
// Passes over few and over many rows run the same tiles on the same values, hence give the same
// bits; which one runs is a matter of speed. Call with the pool's lock held.
#pragma once

#include "few_rows.h"
#include "many_rows.h"

namespace bark {

// Run `body(thread, num_threads)` on every thread of the pool.
template <class Body>
void run_pass(Gpt& gpt, Body body) {
  Pool& pool = Pool::instance();
  gpt.prepare_threads(pool.num_threads());
  for (int i = 0; i <= gpt.shape.num_layers; ++i) {
    gpt.head_tickets[i].store(0);
    gpt.block_tickets[i].store(0);
  }
  pool.run(
      [](void* context, int thread, int num_threads) {
        const FixedRounding rounding;
        (*static_cast<Body*>(context))(thread, num_threads);
      },
      &body);
}

template <Precision p>
void run_few(const RowWork<p>& work, int num_rows, bool in_sequence) {
  const FewRows<p> few(work, num_rows, in_sequence);
  run_pass(work.gpt, [&](int thread, int num_threads) {
    few.take_hidden(thread, num_threads);
    for (int l = 0; l < work.gpt.shape.num_layers; ++l) few.layer(l, thread, num_threads);
    few.head(thread, num_threads);
  });
}

// One position for each of several sequences -> logits of each.
template <Precision p>
void decode(const RowWork<p>& work, const int32_t* slots, const int32_t* positions, int num_rows) {
  for (int r = 0; r < num_rows; ++r) work.gpt.places[r] = {slots[r], positions[r]};
  run_few(work, num_rows, false);
}

// Positions begin .. begin + num_rows - 1 of one sequence -> logits of the last.
template <Precision p>
void extend(const RowWork<p>& work, int slot, int begin, int num_rows) {
  Gpt& gpt = work.gpt;
  if (num_rows <= kNarrowRows) {
    for (int r = 0; r < num_rows; ++r) gpt.places[r] = {slot, begin + r};
    run_few(work, num_rows, true);
    return;
  }
  ManyRows<p> many(work, num_rows, slot, begin);
  many.plan(0, num_rows);
  // The last layer has all its keys and values then; only the last position needs the rest.
  const FewRows<p> end(work, 1, true);
  gpt.places[0] = {slot, begin + num_rows - 1};
  const int last = gpt.shape.num_layers - 1;
  run_pass(gpt, [&](int thread, int num_threads) {
    Pool& pool = Pool::instance();
    for (int s = 0; s <= last; ++s) {
      many.stage(s, thread, s == last, 0);
      pool.barrier(thread);
    }
    if (thread == 0) {
      std::copy_n(gpt.stream.row(num_rows - 1), gpt.shape.width, gpt.stream.row(0));
    }
    pool.barrier(thread);
    end.layer(last, thread, num_threads);
    end.head(thread, num_threads);
  });
}

// Positions that all see each other -> logits of positions [first, last) by one output head.
template <Precision p>
void encode(const RowWork<p>& work, int num_rows, int head, int first, int last) {
  ManyRows<p> many(work, num_rows, 0, 0);
  many.plan(0, num_rows);
  const int num_layers = work.gpt.shape.num_layers;
  run_pass(work.gpt, [&](int thread, int) {
    Pool& pool = Pool::instance();
    for (int s = 0; s < num_layers; ++s) {
      many.stage(s, thread, false, head);
      pool.barrier(thread);
    }
    if (thread == 0) many.plan(first, last);
    pool.barrier(thread);
    many.stage(num_layers, thread, false, head);
  });
}

}  // namespace bark
