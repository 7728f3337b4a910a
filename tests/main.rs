//! Every integration test, in one binary: burn is large, and linking it once is enough.

mod scores;
mod tokens;
mod voxtral;
