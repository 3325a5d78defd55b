//! Whole-system tests: the shared loaders of reference data.
