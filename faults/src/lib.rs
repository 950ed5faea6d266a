//! To be preloaded.
