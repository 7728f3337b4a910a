//! Detection of environment variables that hold secrets.

use std::ffi::OsStr;

/// Whether an environment variable's name suggests a secret value.
pub fn is_secret(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_uppercase();
    ["TOKEN", "SECRET", "PASSWORD", "KEY"].iter().any(|word| name.contains(word))
}
