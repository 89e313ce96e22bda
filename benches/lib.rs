//! Nothing: the package consists of its benchmarks. See `publish.rs`.
