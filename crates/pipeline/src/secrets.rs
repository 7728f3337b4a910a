//! Which environment variables are secret.

use std::ffi::OsStr;

/// Whether an environment variable is nobody's business, by its name.
pub fn is_secret(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_uppercase();
    ["TOKEN", "SECRET", "PASSWORD", "KEY"].iter().any(|word| name.contains(word))
}
