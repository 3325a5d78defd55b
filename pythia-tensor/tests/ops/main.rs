//! The public operations, as a user of the crate calls them, against their plain twins in `reference`: on every
//! instruction set of this machine, and with the same bits for any number of threads.
//!
//! Bounds on errors follow from the sizes: `u` is the unit roundoff, and a sum of n terms errs by at most `n u` times the
//! sum of their magnitudes (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1).

mod attention;
mod conversions;
mod difference;
mod matmul;
mod numbers;
mod quantized;
mod rows;
mod shapes;
