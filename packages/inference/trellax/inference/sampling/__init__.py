"""Drawing tokens from logits on the device, in JAX alone, the same on CPU, GPU and TPU.

    variant = variant_for([r.params for r in requests], constrained=False)                # static: which program
    rows = SamplingRows.of([r.params for r in requests], seeds, steps, num_rows=8)        # arrays: each row's parameters
    sampled = jax.jit(sample, static_argnames="variant")(logits_RV, rows, variant=variant)
    tokens, logprobs = unpack(np.asarray(sampled.packed_RX), variant)                     # a step's one transfer

- Order of changes: penalties, biases, mask; temperature; top_k, top_p, min_p. Tokens are ordered by falling logit, then by rising id.
- Log-probabilities are those of the model's own logits.
- A row's draw depends on its logits, parameters, seed and step alone. Weights are whole numbers, so that sums do not depend on
  their order, and so not on the batch, the program or the devices; a probability is thereby rounded by at most 2⁻²⁷ of the
  likeliest token's. Random numbers are Threefry's, keyed by seed and step.
- A row whose logits are no numbers, or that may draw nothing, gets token -1.
- `verify` accepts drafts such that tokens are distributed as without; `NgramIndex` finds drafts in what was said before,
  `draw_draft` draws them from a draft model's logits.
- Cost, in passes over [R, V]: greedy 1, drawn 2, with top_p 3 and a little; log-probabilities 3 more. The searches of a top_k over
  135, or of `verify` with a draft model's probabilities and top_p, take tens.
"""

from trellax.inference.sampling.drafts import NgramIndex, ngram_drafts
from trellax.inference.sampling.packing import pack, packed_width, unpack, unpack_verified
from trellax.inference.sampling.rows import (
    NUM_ALTERNATIVES,
    SamplerVariant,
    SamplingRows,
    variant_for,
)
from trellax.inference.sampling.sampler import Sampled, sample
from trellax.inference.sampling.verify import Verified, draw_draft, verify

__all__ = [
    "NUM_ALTERNATIVES",
    "NgramIndex",
    "Sampled",
    "SamplerVariant",
    "SamplingRows",
    "Verified",
    "draw_draft",
    "ngram_drafts",
    "pack",
    "packed_width",
    "sample",
    "unpack",
    "unpack_verified",
    "variant_for",
    "verify",
]
