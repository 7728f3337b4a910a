//! Secret environment variables: withheld from programs, and redacted in their output.

use pipeline::process::secrets::is_secret;
use std::ffi::OsString;

/// Secret environment variables.
pub(super) struct Secrets {
    /// Names of variables that are not passed to the program.
    pub(super) withheld: Vec<OsString>,
    /// Values to redact in its output, longest first.
    values: Vec<String>,
}

/// Minimum length of a redacted value. Shorter ones are common words and numbers; redacting them would hide ordinary output.
const SHORTEST_SECRET: usize = 6;

impl Secrets {
    /// Finds the secrets of an environment; those in `allowed` are passed on, but still redacted.
    pub(super) fn of(environment: impl Iterator<Item = (OsString, OsString)>, allowed: &[String]) -> Self {
        let mut secrets = Self { withheld: Vec::new(), values: Vec::new() };
        for (name, value) in environment {
            if !is_secret(&name) {
                continue;
            }
            secrets
                .values
                .extend(value.to_string_lossy().lines().map(str::trim).filter(|line| line.len() >= SHORTEST_SECRET).map(str::to_owned));
            if !allowed.iter().any(|allowed| **allowed == *name) {
                secrets.withheld.push(name);
            }
        }
        secrets.values.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        secrets.values.dedup();
        secrets
    }

    /// Replaces secret values by `[redacted]`.
    pub(super) fn redact(&self, text: &str) -> String {
        self.values
            .iter()
            .fold(text.to_owned(), |text, secret| if text.contains(secret) { text.replace(secret, "[redacted]") } else { text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_withheld_and_redacted() {
        let environment = [("HF_TOKEN", "hf_abcdefgh"), ("MY_ApiKey", "sk-123456"), ("HOME", "/home/x"), ("USE_KEY", "1")];
        let secrets = Secrets::of(environment.iter().map(|(name, value)| ((*name).into(), (*value).into())), &["HF_TOKEN".to_owned()]);
        assert_eq!(secrets.withheld, ["MY_ApiKey", "USE_KEY"]);
        assert_eq!(secrets.redact("1 hf_abcdefgh sk-123456 /home/x"), "1 [redacted] [redacted] /home/x");
    }
}
