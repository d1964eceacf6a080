//! What tests, demonstrations and measurements stand on: clusters of network namespaces.
pub mod cases;
pub mod netns;
pub mod probe;
pub mod random;
