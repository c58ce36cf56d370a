// One network: its packed weights, its key-value cache and the working memory of a pass.
//
// Knows shapes and memory; the arithmetic of a pass is in few_rows.h and many_rows.h.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "attention.h"
#include "pool.h"

namespace bark {

inline constexpr int kNarrowRows = 48;  // up to this many rows the threads share out columns
inline constexpr int kBlockRows = 48;   // rows that one thread takes through a layer's products

struct Shape {
  int num_layers;
  int num_heads;
  int width;
  Precision precision;
  int num_slots;
  int max_positions;
  bool causal;
  int num_heads_out;

  int head_dim() const { return width / num_heads; }
  // Columns of each of q, k and v in the fused product.
  int projection() const { return static_cast<int>(round_up(width, kPanel)); }
  int hidden() const { return 4 * width; }
};

// One row's place in the cache.
struct Place {
  int slot;
  int position;
};

struct Norm {
  float* weight;
  float* bias;  // zeros when the layer has none; both padded with zeros to a multiple of 64
};

struct Layer {
  Norm norm_1;
  Norm norm_2;
  Matrix attention_in;
  Matrix attention_out;
  Matrix mlp_in;
  Matrix mlp_out;
};

// Intermediate results of some rows within a layer.
struct Block {
  Block() = default;
  Block(const Shape& shape, size_t num_rows)
      : operand(shape.precision, num_rows, shape.hidden()),
        projected(num_rows, 3 * shape.projection()),
        attended(num_rows, round_up(shape.width, kDepthMultiple)),
        hidden(num_rows, round_up(shape.hidden(), kDepthMultiple)) {}

  Operand operand;
  Rows<float> projected;  // q, k, v
  Rows<float> attended;
  Rows<float> hidden;
};

// What a thread has for itself.
struct ThreadScratch {
  explicit ThreadScratch(const Shape& shape)
      : block(shape, kBlockRows),
        attention(shape.max_positions),
        normed(1, round_up(shape.width, kDepthMultiple)) {}

  Block block;
  AttentionScratch attention;
  Rows<float> normed;
};

class Gpt {
 public:
  explicit Gpt(const Shape& shape);

  // Weights are [out, in] floats; `which`: 0 attention_in, 1 attention_out, 2 mlp_in, 3 mlp_out.
  void load_linear(int layer, int which, const float* weight, const float* bias);
  void load_norm(const Norm& norm, const float* weight, const float* bias);
  void load_head(int index, int columns, const float* weight);

  // Threads may have been added since the last pass.
  void prepare_threads(int num_threads) {
    while (static_cast<int>(scratch.size()) < num_threads) {
      scratch.push_back(std::make_unique<ThreadScratch>(shape));
    }
  }

  uint8_t* slot_layer(int slot, int layer) const {
    return cache.data() +
           (static_cast<size_t>(slot) * shape.num_layers + layer) * layout.layer_bytes;
  }

  Shape shape;
  KVLayout layout;
  std::vector<Layer> layers;
  Norm final_norm;
  std::vector<Matrix> heads;
  size_t weight_bytes = 0;

  // Causal: [slots][layers] of KVLayout. Bidirectional: two layers that take turns.
  Region cache;
  Rows<float> stream;       // the residual stream, one row a position
  Rows<uint32_t> queries;   // [rows][heads * depth], as they enter the scores
  Block narrow;             // shared by all threads
  std::vector<Place> places;  // of the rows of a pass over few rows
  // [layers + 1]: which piece of a layer's work is next, one head or one block of rows.
  std::unique_ptr<std::atomic<int>[]> head_tickets;
  std::unique_ptr<std::atomic<int>[]> block_tickets;
  std::vector<std::unique_ptr<ThreadScratch>> scratch;

 private:
  Matrix place(uint8_t*& cursor, int columns, int depth) const;
  size_t matrix_bytes(int columns, int depth) const;
  void pack(const Matrix& matrix, const float* weight, const float* bias, int columns,
            int group, int padded_group);

  Region layer_memory_;
  Region norm_memory_;
  std::vector<Region> head_memory_;
};

}  // namespace bark
