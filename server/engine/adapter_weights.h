#ifndef GRAFT_SERVER_ENGINE_ADAPTER_WEIGHTS_H_
#define GRAFT_SERVER_ENGINE_ADAPTER_WEIGHTS_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "server/safetensors/tensor_view.h"

namespace graft {

// How a target's factors make its change D of a parameter W, at weight 1.
// flat() is the matrix [shape[0], rest], s the target's scale, * the matrix
// product, o the product of elements, x Kronecker's.
//
// Additive: D does not depend on W.
enum class AdapterAlgorithm {
  // D = s * flat(up) * flat(down) (arXiv:2106.09685; k x k convolutions: LoCon,
  // arXiv:2309.14859). With a mid factor ("Tucker"; k x k convolutions):
  // D[p, q, y, x] = s * sum_ab up[p, a] mid[a, b, y, x] down[b, q].
  kLora,
  // D = s * (w1_a * w1_b) o (w2_a * w2_b) (arXiv:2108.06098). With t1 and t2,
  // each side is sum_ab t[a, b, y, x] w_a[a, p] w_b[b, q].
  kLoha,
  // D = s * (w1 x w2) (arXiv:2309.14859), each side whole or a product of two
  // factors; w2 with t2: sum_mn t2[m, n, y, x] w2_a[m, p] w2_b[n, q].
  kLokr,
  // D = s * diff: full and norm differences, and every change of a bias.
  kDiff,

  // Not additive: D is a function of the pristine W.
  //
  // D = w o W along the input axis if `on_input`, else along the output axis
  // (arXiv:2205.05638).
  kIa3,
  // D = s * (W * (a1 * a2) + b1 * b2), the product with W over its input axis
  // (arXiv:2306.07967).
  kGlora,
  // D = R(blocks) W - W, rotated by blocks of rows: Q = B - B^T, limited in
  // norm by `constraint`; R = (I + Q)(I - Q)^-1; OFT multiplies with R^T
  // (arXiv:2306.07280), BOFT in butterfly stages with R (arXiv:2311.06243).
  // `rescale` multiplies the rows at the end.
  kOft,
  kBoft,
};

// Which axis of W a magnitude (DoRA) or a factor (IA3) runs along.
enum class WeightAxis { kOutput, kInput };

// A factor's part in its algorithm's formula, and its shape. W is [o, i] or
// [o, i, k, k]; [o] for biases and norms. r is the rank.
enum class FactorRole {
  // kLora. 1x1 convolutions and linear layers: no trailing [1, 1].
  kDown,  // [r, i] or [r, i, k, k]; with kMid [r, i]
  kUp,    // [o, r]
  kMid,   // [r, r, k, k]

  // kLoha. A w_b without t is [r, i] or [r, i*k*k]; with t [r, i], and w_a is
  // then transposed: [r, o].
  kHadaW1A,  // [o, r]
  kHadaW1B,
  kHadaW2A,
  kHadaW2B,
  kHadaT1,  // [r, r, k, k]
  kHadaT2,

  // kLokr; a*c == o, b*d == i.
  kLokrW1,   // [a, b]
  kLokrW1A,  // [a, r]
  kLokrW1B,  // [r, b]
  kLokrW2,   // [c, d] or [c, d, k, k]
  kLokrW2A,  // [c, r]; with kLokrT2 [r, c]
  kLokrW2B,  // [r, d] or [r, d*k*k]; with kLokrT2 [r, d]
  kLokrT2,   // [r, r, k, k]

  kDiff,  // the shape of the parameter
  kIa3,   // [i] or [o]

  // kGlora
  kGloraA1,  // [i, r]
  kGloraA2,  // [r, i]
  kGloraB1,  // [o, r]
  kGloraB2,  // [r, i] or [r, i, k, k]

  kOftBlocks,  // kOft [K, n, n], K*n == o; kBoft [m, d, b, b], d*b == o
  kRescale,    // [o]

  // With kLora, kLoha or kLokr: DoRA (arXiv:2402.09353). V = W + D;
  // D' = V o (magnitude / norm of V over all axes but `magnitude_axis`) - W, so
  // the target is no longer additive. [o] or [i].
  kMagnitude,
};

struct AdapterFactor {
  FactorRole role = FactorRole::kDown;
  std::string key;  // in the file, for messages
  TensorView tensor;
};

enum class ParameterKind { kWeight, kBias };

// What an adapter does to one parameter of the base.
struct AdapterTarget {
  std::string module;  // ModuleInfo::name
  ParameterKind parameter = ParameterKind::kWeight;
  AdapterAlgorithm algorithm = AdapterAlgorithm::kLora;
  int rank = 0;                        // 0 where the algorithm has none
  double scale = 1.0;                  // alpha / rank, or what the format says
  std::vector<AdapterFactor> factors;  // each role at most once
  WeightAxis magnitude_axis = WeightAxis::kOutput;  // with kMagnitude
  bool on_input = false;                            // kIa3
  // kOft, kBoft: the largest Frobenius norm of Q over all blocks; 0: none.
  double constraint = 0.0;

  // Null if there is no such factor.
  const AdapterFactor* Find(FactorRole role) const;
};

// One adapter's weights in host memory, checked for keys and shapes, as parsed
// from its file. Immutable after parsing.
struct AdapterWeights {
  std::string sha256;                   // of the whole file, 64 hex digits
  std::shared_ptr<const void> storage;  // keeps the factors' bytes alive
  // Sorted by module, weight before bias; one per parameter.
  std::vector<AdapterTarget> targets;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_ADAPTER_WEIGHTS_H_
