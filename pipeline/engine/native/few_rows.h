// A pass over few rows: one decode step of several sequences, or a short piece of one.
//
// Reading the weights is the work, so every product is shared out by columns: each thread streams
// its part of the weights once, whatever the number of rows, and all meet between products.
#pragma once

#include "row_work.h"

namespace bark {

template <Precision p>
class FewRows {
 public:
  // Rows 0 .. num_rows - 1 of `work` at gpt.places. `in_sequence`: they are consecutive positions
  // of one slot, and only the last one's logits are wanted.
  FewRows(const RowWork<p>& work, int num_rows, bool in_sequence)
      : work_(work), g_(work.gpt), num_rows_(num_rows), in_sequence_(in_sequence) {}

  void take_hidden(int thread, int num_threads) const {
    const Range mine = share(num_rows_, thread, num_threads);
    for (int r = mine.first; r < mine.last; ++r) work_.take_hidden(r);
  }

  void layer(int index, int thread, int num_threads) const {
    Pool& pool = Pool::instance();
    const Layer& layer = g_.layers[index];
    const Block& block = g_.narrow;

    each_row(0, thread, num_threads,
             [&](int r) { work_.norm_to_operand(r, layer.norm_1, block, r, thread); });
    pool.barrier(thread);
    product(0, layer.attention_in, thread, num_threads,
            [&](int row, int column, __m512 low, __m512 high) {
              store_pair(block.projected.row(row) + column, low, high);
            });
    pool.barrier(thread);
    store_heads(index, thread, num_threads);
    pool.barrier(thread);

    // Beyond its keys and values, the last layer matters for the wanted rows alone.
    const int first = index == g_.shape.num_layers - 1 ? first_wanted() : 0;
    attend_heads(index, first, thread);
    pool.barrier(thread);
    each_row(first, thread, num_threads, [&](int r) {
      fill_operand<p>(block.operand, r, block.attended.row(r), g_.shape.width);
    });
    pool.barrier(thread);
    const auto add_to_stream = [&](int row, int column, __m512 low, __m512 high) {
      add_pair(g_.stream.row(row) + column, low, high);
    };
    product(first, layer.attention_out, thread, num_threads, add_to_stream);
    pool.barrier(thread);

    each_row(first, thread, num_threads,
             [&](int r) { work_.norm_to_operand(r, layer.norm_2, block, r, thread); });
    pool.barrier(thread);
    product(first, layer.mlp_in, thread, num_threads,
            [&](int row, int column, __m512 low, __m512 high) {
              store_pair(block.hidden.row(row) + column, gelu_lanes(low), gelu_lanes(high));
            });
    pool.barrier(thread);
    each_row(first, thread, num_threads, [&](int r) {
      fill_operand<p>(block.operand, r, block.hidden.row(r), g_.shape.hidden());
    });
    pool.barrier(thread);
    product(first, layer.mlp_out, thread, num_threads, add_to_stream);
    pool.barrier(thread);
  }

  void head(int thread, int num_threads) const {
    const int first = first_wanted();
    each_row(first, thread, num_threads,
             [&](int r) { work_.norm_to_operand(r, g_.final_norm, g_.narrow, r, thread); });
    Pool::instance().barrier(thread);
    product(first, g_.heads[0], thread, num_threads,
            [&](int row, int column, __m512 low, __m512 high) {
              work_.store_logits(row - first, column, low, high);
            });
  }

 private:
  int first_wanted() const { return in_sequence_ ? num_rows_ - 1 : 0; }

  // This thread's part of the rows from `first`.
  template <class Work>
  void each_row(int first, int thread, int num_threads, Work work) const {
    const Range mine = share(num_rows_ - first, thread, num_threads);
    for (int r = first + mine.first; r < first + mine.last; ++r) work(r);
  }

  // The rows from `first` times this thread's columns.
  template <class Finish>
  void product(int first, const Matrix& matrix, int thread, int num_threads, Finish finish) const {
    // Fetched 4 KB before use; 1, 2, 8 and 16 KB made no difference that could be measured.
    multiply<p>(g_.narrow.operand, first, num_rows_ - first, matrix,
                share(matrix.num_panels(), thread, num_threads), 4096, finish);
  }

  void store_heads(int index, int thread, int num_threads) const {
    const int heads = g_.layout.num_heads;
    const Range items = share(num_rows_ * heads, thread, num_threads);
    for (int i = items.first; i < items.last; ++i) {
      const int r = i / heads;
      const Place& place = g_.places[r];
      work_.store_head(g_.narrow, r, r, i % heads, g_.slot_layer(place.slot, index),
                       place.position, !in_sequence_ || r + 1 == num_rows_);
    }
  }

  // Rows of one sequence are attended together, rows of several sequences one by one.
  void attend_heads(int index, int first, int thread) const {
    const KVLayout& layout = g_.layout;
    const int heads = layout.num_heads;
    const int count = num_rows_ - first;
    const int num_tiles = in_sequence_ ? (count + kTileRows - 1) / kTileRows : count;
    std::atomic<int>& ticket = g_.head_tickets[index];
    for (int i; (i = ticket.fetch_add(1, std::memory_order_relaxed)) < num_tiles * heads;) {
      const Range tile = share(count, i / heads, num_tiles);
      const int r = first + tile.first;
      const int head = i % heads;
      const Place& place = g_.places[r];
      attend<p>(
          layout, g_.slot_layer(place.slot, index) + head * layout.head_bytes,
          work_.query(r, head), static_cast<ptrdiff_t>(g_.queries.stride()),
          tile.last - tile.first, place.position + 1, 1, g_.scratch[thread]->attention,
          g_.narrow.attended.row(r) + head * layout.head_dim,
          static_cast<ptrdiff_t>(g_.narrow.attended.stride()));
    }
  }

  const RowWork<p>& work_;
  Gpt& g_;
  const int num_rows_;
  const bool in_sequence_;
};

}  // namespace bark
