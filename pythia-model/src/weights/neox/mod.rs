//! The checkpoints that the training code, GPT-NeoX, writes itself: the folder `global_stepN` of layer files.
//!
//! `DeepSpeed`'s pipeline saves a file for each of its layers and each rank of model parallelism,
//! `layer_LL-model_RR-model_states.pt`, a state dict in the format of [`.bin` files](super::pytorch). Layer 0 is the
//! embedding, those from 2 on are the transformer's, and after a gap come the final norm and the unembedding; 1 and the
//! gap are functions without weights (gpt-neox, `megatron/model/gpt2_model.py`, `init_specs`). What lies beside them is
//! not read: the `mp_rank_*` files hold objects of all kinds, `zero_pp_rank_*` the optimizer's state.
//!
//! # Ranks
//!
//! Each rank has some of the rows of the embeddings, of `query_key_value` (whole heads) and of `dense_h_to_4h`, some of
//! the columns of the two other matrices, and vectors of its own:
//!
//! - Norms ought to be the same on every rank, but drift apart. They are averaged, as gpt-neox's
//!   `tools/ckpts/convert_neox_to_hf.py` does.
//! - The biases of `dense` and `dense_4h_to_h` are added up where the residual is parallel: there each rank adds its own
//!   before the ranks' outputs are summed (`ParallelTransformerLayer.forward`; EleutherAI/gpt-neox#962). With the
//!   sequential residual they are added after that sum, once, and are copies as norms are. (The converter adds them up
//!   there too, which gives as many times the bias as there are ranks.)
//!
//! Both are computed in `f64` and rounded to the stored type; the converter rounds after each addition.
//!
//! # Memory
//!
//! With one rank, nothing is copied: the tensors are mapped. With several, a merged tensor is memory of its own, in the
//! stored type and made when it is asked for: an open model then holds all its weights, beside the pages of the files,
//! which the system drops when it needs room. A conversion holds one tensor at a time; what it writes is mapped again.

mod config;
mod folder;
mod names;
mod parts;
mod settings;

pub(crate) use folder::NeoxFolder;
pub(super) use parts::Parts;
