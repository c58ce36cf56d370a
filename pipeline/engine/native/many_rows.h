// A pass over many rows of one sequence: a prefill, or a bidirectional encoding.
//
// Arithmetic is the work, so each thread takes blocks of rows through a whole layer while their
// intermediate results stay in its cache. All meet once a layer, between the writing of keys and
// values and their reading.
#pragma once

#include <algorithm>
#include <vector>

#include "row_work.h"

namespace bark {

template <Precision p>
class ManyRows {
 public:
  // Rows 0 .. num_rows - 1 of `work`. Causal: positions from `begin` in `slot`.
  ManyRows(const RowWork<p>& work, int num_rows, int slot, int begin)
      : work_(work), g_(work.gpt), num_rows_(num_rows), slot_(slot), begin_(begin) {}

  // Work on rows [first, last) from now on. Blocks are handed out from the back, where a causal
  // row has most to attend to, and the smaller ones come last, so that the threads end together.
  void plan(int first, int last) {
    first_ = first;
    const int threads = Pool::instance().num_threads();
    const int usual = std::clamp((last - first) / (4 * threads), kTileRows, kBlockRows);
    blocks_.clear();
    for (int row = first; row < last;) {
      const int done = row - first;
      const int size = done < threads * 2 * kTileRows ? std::min(kTileRows, usual)
                       : done < threads * usual * 2   ? std::max(kTileRows, usual / 2)
                                                      : usual;
      blocks_.push_back({row, std::min(row + size, last)});
      row = blocks_.back().last;
    }
  }

  // Stage s finishes layer s - 1 and begins layer s, for one block of rows after another; the last
  // stage is output head `head`. `only_keys`: the layer that begins needs no queries.
  void stage(int s, int thread, bool only_keys, int head) const {
    const int num_blocks = static_cast<int>(blocks_.size());
    std::atomic<int>& ticket = g_.block_tickets[s];
    for (int i; (i = ticket.fetch_add(1, std::memory_order_relaxed)) < num_blocks;) {
      const Range rows = blocks_[num_blocks - 1 - i];
      if (s == 0) {
        for (int r = rows.first; r < rows.last; ++r) work_.take_hidden(r);
      } else {
        finish_layer(s - 1, rows, thread);
      }
      if (s < g_.shape.num_layers) {
        begin_layer(s, rows, thread, only_keys);
      } else {
        output_head(g_.heads[head], rows, thread);
      }
    }
  }

 private:
  uint8_t* layer_cache(int layer) const {
    return g_.shape.causal ? g_.slot_layer(slot_, layer)
                           : g_.cache.data() + layer % 2 * g_.layout.layer_bytes;
  }

  // Norm, q, k, v; keys and values into the cache.
  void begin_layer(int index, Range rows, int thread, bool only_keys) const {
    const Layer& layer = g_.layers[index];
    const Block& block = g_.scratch[thread]->block;
    for (int r = rows.first; r < rows.last; ++r) {
      work_.norm_to_operand(r, layer.norm_1, block, r - rows.first, thread);
    }
    const int skipped = only_keys ? g_.shape.projection() / kPanel : 0;
    product(block, rows, layer.attention_in, skipped,
            [&](int row, int column, __m512 low, __m512 high) {
              store_pair(block.projected.row(row) + column, low, high);
            });
    uint8_t* cache = layer_cache(index);
    for (int head = 0; head < g_.layout.num_heads; ++head) {
      for (int r = rows.first; r < rows.last; ++r) {
        work_.store_head(block, r - rows.first, r, head, cache, begin_ + r, r + 1 == num_rows_);
      }
    }
  }

  // Attention, its output product, MLP.
  void finish_layer(int index, Range rows, int thread) const {
    const Layer& layer = g_.layers[index];
    const Block& block = g_.scratch[thread]->block;
    const int count = rows.last - rows.first;
    attend_heads(index, rows, thread);
    for (int r = 0; r < count; ++r) {
      fill_operand<p>(block.operand, r, block.attended.row(r), g_.shape.width);
    }
    const auto add_to_stream = [&](int row, int column, __m512 low, __m512 high) {
      add_pair(g_.stream.row(rows.first + row) + column, low, high);
    };
    product(block, rows, layer.attention_out, 0, add_to_stream);
    for (int r = 0; r < count; ++r) {
      work_.norm_to_operand(rows.first + r, layer.norm_2, block, r, thread);
    }
    product(block, rows, layer.mlp_in, 0, [&](int row, int column, __m512 low, __m512 high) {
      store_pair(block.hidden.row(row) + column, gelu_lanes(low), gelu_lanes(high));
    });
    for (int r = 0; r < count; ++r) {
      fill_operand<p>(block.operand, r, block.hidden.row(r), g_.shape.hidden());
    }
    product(block, rows, layer.mlp_out, 0, add_to_stream);
  }

  void attend_heads(int index, Range rows, int thread) const {
    const KVLayout& layout = g_.layout;
    const Block& block = g_.scratch[thread]->block;
    const uint8_t* cache = layer_cache(index);
    const int count = rows.last - rows.first;
    const int num_tiles = (count + kTileRows - 1) / kTileRows;
    for (int head = 0; head < layout.num_heads; ++head) {
      for (int t = 0; t < num_tiles; ++t) {
        const Range tile = share(count, t, num_tiles);
        const int row = rows.first + tile.first;
        attend<p>(
            layout, cache + head * layout.head_bytes, work_.query(row, head),
            static_cast<ptrdiff_t>(g_.queries.stride()), tile.last - tile.first,
            g_.shape.causal ? begin_ + row + 1 : num_rows_, g_.shape.causal ? 1 : 0,
            g_.scratch[thread]->attention, block.attended.row(tile.first) + head * layout.head_dim,
            static_cast<ptrdiff_t>(block.attended.stride()));
      }
    }
  }

  void output_head(const Matrix& matrix, Range rows, int thread) const {
    const Block& block = g_.scratch[thread]->block;
    for (int r = rows.first; r < rows.last; ++r) {
      work_.norm_to_operand(r, g_.final_norm, block, r - rows.first, thread);
    }
    product(block, rows, matrix, 0, [&](int row, int column, __m512 low, __m512 high) {
      work_.store_logits(rows.first + row - first_, column, low, high);
    });
  }

  // The block's first tile fetches the panel after the one that it multiplies with.
  template <class Finish>
  void product(const Block& block, Range rows, const Matrix& matrix, int first_panel,
               Finish finish) const {
    multiply<p>(block.operand, 0, rows.last - rows.first, matrix,
                {first_panel, matrix.num_panels()},
                static_cast<ptrdiff_t>(matrix.units) * kStepBytes, finish);
  }

  const RowWork<p>& work_;
  Gpt& g_;
  const int num_rows_;
  const int slot_;
  const int begin_;
  int first_ = 0;  // the first row whose logits are wanted
  std::vector<Range> blocks_;
};

}  // namespace bark
