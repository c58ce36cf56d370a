// Memory layout of a network and the packing of its weights.
#include "gpt.h"

#include <cstring>

namespace bark {

namespace {

template <Precision p>
void pack_columns(const Matrix& matrix, const float* weight, int columns, int group,
                  int padded_group) {
  struct Work {
    const Matrix& matrix;
    const float* weight;
    int columns, group, padded_group;
  } work{matrix, weight, columns, group, padded_group};
  Pool::instance().run(
      [](void* context, int thread, int num_threads) {
        const Work& w = *static_cast<Work*>(context);
        const FixedRounding rounding;
        const Range mine = share(w.columns, thread, num_threads);
        for (int c = mine.first; c < mine.last; ++c) {
          pack_column<p>(w.matrix, c / w.group * w.padded_group + c % w.group,
                         w.weight + static_cast<size_t>(c) * w.matrix.depth);
        }
      },
      &work);
}

}  // namespace

Gpt::Gpt(const Shape& given)
    : shape(given),
      layout(given.precision, given.num_heads, given.head_dim(), given.max_positions),
      layers(given.num_layers),
      heads(given.num_heads_out),
      cache(layout.layer_bytes *
            (given.causal ? static_cast<size_t>(given.num_slots) * given.num_layers : 2)),
      head_memory_(given.num_heads_out) {
  const int width = shape.width;
  const size_t norm_floats = round_up(width, kDepthMultiple);
  const int columns_in = 3 * shape.projection();
  layer_memory_ = Region(shape.num_layers * (matrix_bytes(columns_in, width) +
                                             matrix_bytes(width, width) +
                                             matrix_bytes(shape.hidden(), width) +
                                             matrix_bytes(width, shape.hidden())));
  norm_memory_ = Region((4 * shape.num_layers + 2) * norm_floats * sizeof(float));
  uint8_t* cursor = layer_memory_.data();
  float* norms = norm_memory_.as<float>();
  const auto next_norm = [&] {
    const Norm norm{norms, norms + norm_floats};
    norms += 2 * norm_floats;
    return norm;
  };
  for (Layer& layer : layers) {
    layer.norm_1 = next_norm();
    layer.norm_2 = next_norm();
    layer.attention_in = place(cursor, columns_in, width);
    layer.attention_out = place(cursor, width, width);
    layer.mlp_in = place(cursor, shape.hidden(), width);
    layer.mlp_out = place(cursor, width, shape.hidden());
  }
  final_norm = next_norm();
  weight_bytes = layer_memory_.bytes() + norm_memory_.bytes();

  const size_t narrow_rows = std::max(kNarrowRows, shape.num_slots);
  const size_t all_rows = std::max<size_t>(shape.max_positions, narrow_rows);
  stream = Rows<float>(all_rows, round_up(width, kDepthMultiple));
  queries = Rows<uint32_t>(all_rows, static_cast<size_t>(layout.num_heads) * layout.query_units);
  places.resize(narrow_rows);
  head_tickets.reset(new std::atomic<int>[shape.num_layers + 1]);
  block_tickets.reset(new std::atomic<int>[shape.num_layers + 1]);
  if (shape.causal) narrow = Block(shape, narrow_rows);
}

size_t Gpt::matrix_bytes(int columns, int depth) const {
  const size_t padded = round_up(columns, kPanel);
  return Matrix::panel_bytes(shape.precision, static_cast<int>(padded), depth) +
         padded * 3 * sizeof(float);  // bias, scales, offsets
}

Matrix Gpt::place(uint8_t*& cursor, int columns, int depth) const {
  Matrix matrix;
  matrix.columns = static_cast<int>(round_up(columns, kPanel));
  matrix.depth = depth;
  matrix.units = static_cast<int>(round_up(depth, kDepthMultiple)) /
                 depth_per_unit(shape.precision);
  matrix.panels = cursor;
  cursor += Matrix::panel_bytes(shape.precision, matrix.columns, depth);
  matrix.bias = reinterpret_cast<float*>(cursor);
  matrix.scales = matrix.bias + matrix.columns;
  matrix.offsets = reinterpret_cast<int32_t*>(matrix.scales + matrix.columns);
  cursor = reinterpret_cast<uint8_t*>(matrix.offsets + matrix.columns);
  return matrix;
}

// Column c of `weight` goes to c / group * padded_group + c % group.
void Gpt::pack(const Matrix& matrix, const float* weight, const float* bias, int columns, int group,
               int padded_group) {
  switch (shape.precision) {
    case Precision::fp32:
      pack_columns<Precision::fp32>(matrix, weight, columns, group, padded_group);
      break;
    case Precision::bf16:
      pack_columns<Precision::bf16>(matrix, weight, columns, group, padded_group);
      break;
    case Precision::int8:
      pack_columns<Precision::int8>(matrix, weight, columns, group, padded_group);
      break;
  }
  for (int c = 0; c < columns; ++c) {
    matrix.bias[c / group * padded_group + c % group] = bias == nullptr ? 0.0f : bias[c];
  }
}

void Gpt::load_linear(int index, int which, const float* weight, const float* bias) {
  const Layer& layer = layers[index];
  const int width = shape.width;
  if (which == 0) {
    pack(layer.attention_in, weight, bias, 3 * width, width, shape.projection());
  } else if (which == 1) {
    pack(layer.attention_out, weight, bias, width, width, width);
  } else if (which == 2) {
    pack(layer.mlp_in, weight, bias, shape.hidden(), shape.hidden(), shape.hidden());
  } else {
    pack(layer.mlp_out, weight, bias, width, width, width);
  }
}

void Gpt::load_norm(const Norm& norm, const float* weight, const float* bias) {
  std::memcpy(norm.weight, weight, shape.width * sizeof(float));
  if (bias == nullptr) {
    std::memset(norm.bias, 0, shape.width * sizeof(float));
  } else {
    std::memcpy(norm.bias, bias, shape.width * sizeof(float));
  }
}

void Gpt::load_head(int index, int columns, const float* weight) {
  weight_bytes -= head_memory_[index].bytes();
  head_memory_[index] = Region(matrix_bytes(columns, shape.width));
  weight_bytes += head_memory_[index].bytes();
  uint8_t* cursor = head_memory_[index].data();
  heads[index] = place(cursor, columns, shape.width);
  pack(heads[index], weight, nullptr, columns, columns, columns);
}

}  // namespace bark
