//! Samples, batches of them, and the seam for their codec.
