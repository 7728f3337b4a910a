//! What counts as a secret: the one list of names and of forms of values, for settings, programs, jobs, logs and events.

pub mod redactor;

use std::ffi::OsStr;
use std::ops::Range;

/// Words that make a name secret wherever they stand in it: `HF_TOKEN`, `CLIENT_SECRET_FILE`, `apiKey`.
const WORDS: [&str; 12] =
    ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "PASSCODE", "CREDENTIAL", "CRED", "KEY", "APIKEY", "AUTHORIZATION", "BEARER"];
/// Words that make a name secret as its last word: `DB_PASS`, `GITHUB_PAT`; `PASS_RATE` is none.
const LAST_WORDS: [&str; 4] = ["PASS", "PAT", "AUTH", "PWD"];
/// Ends of words written together, such as `HFTOKEN` and `ACCESSKEY`. `MONKEY` and `COMPASS` have none of them.
const ENDINGS: [&str; 14] = [
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "CREDENTIAL",
    "APIKEY",
    "ACCESSKEY",
    "SECRETKEY",
    "PRIVATEKEY",
    "AUTHKEY",
    "SIGNINGKEY",
    "ENCRYPTIONKEY",
    "SSHKEY",
];
/// Words beside `TOKENS` that make it a count: `MAX_NEW_TOKENS`, `TOKENS_PER_BATCH`.
const COUNTS: [&str; 13] = ["MAX", "MIN", "NUM", "N", "NO", "COUNT", "NUMBER", "LIMIT", "NEW", "PER", "TOTAL", "SPECIAL", "TEXT"];

/// Whether a name suggests a secret value.
///
/// The name is split into words at characters that are no letters or digits and at capital letters. Digits and a plural `S` at the end of a
/// word do not count.
pub fn is_secret_name(name: &str) -> bool {
    let words = words(name);
    let count = |(index, word): (usize, &String)| {
        word == "TOKENS" && words.iter().enumerate().any(|(other, word)| other != index && COUNTS.contains(&word.as_str()))
    };
    let last = words.len().saturating_sub(1);
    words.iter().enumerate().any(|(index, written)| {
        let word = singular(written);
        let public = index > 0 && words[index - 1] == "PUBLIC" && word == "KEY";
        let (whole, ends) = (WORDS.contains(&word), ENDINGS.iter().any(|ending| word.ends_with(ending)));
        // `PWD` alone is the current folder; `MYSQL_PWD` is a password.
        let as_last = index == last && LAST_WORDS.contains(&word) && (word != "PWD" || last > 0);
        (whole || ends || as_last) && !public && !count((index, written))
    })
}

/// Whether a key of a pipeline file can only stand for a secret: `password`, `api_key`, `hf_token`. Unlike [`is_secret_name`] it leaves out
/// words with other meanings in data, such as the `key` of a table and the `pad_token` of a tokenizer.
pub fn is_secret_key(name: &str) -> bool {
    const ALONE: [&str; 7] = ["PASSWORD", "PASSWD", "PASSPHRASE", "APIKEY", "SECRETKEY", "ACCESSKEY", "PRIVATEKEY"];
    const PAIRS: [(&str, &str); 12] = [
        ("API", "KEY"),
        ("ACCESS", "KEY"),
        ("SECRET", "KEY"),
        ("PRIVATE", "KEY"),
        ("HF", "TOKEN"),
        ("API", "TOKEN"),
        ("AUTH", "TOKEN"),
        ("ACCESS", "TOKEN"),
        ("BEARER", "TOKEN"),
        ("GITHUB", "TOKEN"),
        ("WRITE", "TOKEN"),
        ("CLIENT", "SECRET"),
    ];
    let words = words(name);
    let word = |index: usize| words.get(index).map_or("", |word| singular(word));
    let last = words.len().saturating_sub(1);
    ALONE.contains(&word(last)) || last > 0 && PAIRS.contains(&(word(last - 1), word(last)))
}

/// Whether an environment variable is a secret, by its name or by its value.
pub fn is_secret_variable(name: &OsStr, value: &OsStr) -> bool {
    is_secret_name(&name.to_string_lossy()) || find(&value.to_string_lossy()).is_some()
}

/// The words of a name, in capital letters.
fn words(name: &str) -> Vec<String> {
    let characters: Vec<char> = name.chars().collect();
    let mut words = vec![String::new()];
    for (index, &character) in characters.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| characters[before]);
        let after = characters.get(index + 1);
        let starts_word = character.is_uppercase()
            && before.is_some_and(|before| {
                before.is_lowercase() || before.is_uppercase() && after.is_some_and(|after| after.is_lowercase() && *after != 's')
            });
        if !character.is_alphanumeric() || starts_word {
            words.push(String::new());
        }
        if character.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(character.to_uppercase());
        }
    }
    words.retain(|word| !word.is_empty() && !word.chars().all(|character| character.is_ascii_digit()));
    words
}

/// A word without digits and a plural at its end. `PASS` is no plural.
fn singular(word: &str) -> &str {
    let word = word.trim_end_matches(|character: char| character.is_ascii_digit());
    if word.ends_with("SS") { word } else { word.strip_suffix('S').unwrap_or(word) }
}

/// A text that looks like a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSecret {
    /// The bytes to hide.
    pub range: Range<usize>,
    /// What it looks like, as in "a token of the Hugging Face Hub".
    pub what: &'static str,
}

/// What follows the prefix of a token.
enum Rest {
    /// Letters and digits: at least this many of any, or 10 with capital letters, small letters and digits.
    Plain(usize),
    /// Letters, digits, `-` and `_`, with one part of at least this many letters and digits.
    Parts(usize),
    /// Exactly this many capital letters and digits.
    Capitals(usize),
}

/// Prefixes of tokens, with the form of the rest.
const TOKENS: [(&str, Rest, &str); 19] = [
    ("hf_", Rest::Plain(20), "a token of the Hugging Face Hub"),
    ("api_org_", Rest::Plain(20), "a token of the Hugging Face Hub"),
    ("sk-", Rest::Parts(16), "an API key"),
    ("sk_live_", Rest::Plain(16), "an API key"),
    ("github_pat_", Rest::Parts(16), "a GitHub token"),
    ("ghp_", Rest::Plain(20), "a GitHub token"),
    ("gho_", Rest::Plain(20), "a GitHub token"),
    ("ghu_", Rest::Plain(20), "a GitHub token"),
    ("ghs_", Rest::Plain(20), "a GitHub token"),
    ("ghr_", Rest::Plain(20), "a GitHub token"),
    ("glpat-", Rest::Parts(16), "a GitLab token"),
    ("npm_", Rest::Plain(30), "an npm token"),
    ("pypi-", Rest::Parts(30), "a PyPI token"),
    ("xoxb-", Rest::Parts(10), "a Slack token"),
    ("xoxp-", Rest::Parts(10), "a Slack token"),
    ("AIza", Rest::Parts(30), "a Google API key"),
    ("AKIA", Rest::Capitals(16), "an AWS access key"),
    ("ASIA", Rest::Capitals(16), "an AWS access key"),
    ("eyJ", Rest::Parts(30), "a signed web token"),
];
/// Names in a query of a URL whose values are secrets.
const QUERY: [&str; 8] = ["token", "access_token", "api_key", "apikey", "password", "secret", "signature", "X-Amz-Signature"];
/// The shortest value of a query that counts.
const SHORTEST_QUERY: usize = 8;

/// The first part of a text that looks like a secret.
pub fn find(text: &str) -> Option<FoundSecret> {
    find_from(text, 0)
}

/// Everything in a text that looks like a secret.
pub fn find_all(text: &str) -> Vec<FoundSecret> {
    let mut found = Vec::new();
    let mut start = 0;
    while let Some(secret) = find_from(text, start) {
        start = secret.range.end.max(start + 1);
        found.push(secret);
    }
    found
}

fn find_from(text: &str, start: usize) -> Option<FoundSecret> {
    let rest = text.get(start..)?;
    if !may_contain(rest.as_bytes()) {
        return None;
    }
    [token(rest), private_key(rest), url_password(rest), query(rest), bearer(rest)]
        .into_iter()
        .flatten()
        .min_by_key(|secret| secret.range.start)
        .map(|secret| FoundSecret { range: secret.range.start + start..secret.range.end + start, ..secret })
}

/// What the other secrets begin with.
const SIGNS: [&str; 3] = [PRIVATE_KEY, URL, BEARER];
const PRIVATE_KEY: &str = "-----BEGIN ";
const URL: &str = "://";
const BEARER: &str = "Bearer ";
const PARAMETER: [char; 2] = ['?', '&'];

/// The first two bytes of all tokens and signs, one bit for each pair: most texts have none of them, and are done after one pass.
const BEGINNINGS: [u8; 1 << 13] = {
    let mut pairs = [0; 1 << 13];
    let mut index = 0;
    while index < TOKENS.len() + SIGNS.len() {
        let begin = if index < TOKENS.len() { TOKENS[index].0 } else { SIGNS[index - TOKENS.len()] }.as_bytes();
        let pair = (begin[0] as usize) << 8 | begin[1] as usize;
        pairs[pair >> 3] |= 1 << (pair & 7);
        index += 1;
    }
    pairs
};

/// Whether a text has what every secret begins with.
fn may_contain(text: &[u8]) -> bool {
    let begins = |at: usize, first: u8, second: u8| {
        let pair = usize::from(first) << 8 | usize::from(second);
        let begin = |sign: &str| text[at..].starts_with(sign.as_bytes());
        BEGINNINGS[pair >> 3] & 1 << (pair & 7) != 0 && (TOKENS.iter().any(|(prefix, ..)| begin(prefix)) || SIGNS.into_iter().any(begin))
    };
    let is_parameter = |byte: u8| PARAMETER.contains(&char::from(byte));
    text.windows(2).enumerate().any(|(at, pair)| is_parameter(pair[0]) || begins(at, pair[0], pair[1]))
}

fn token(text: &str) -> Option<FoundSecret> {
    TOKENS
        .iter()
        .filter_map(|(prefix, rest, what)| {
            text.match_indices(prefix).find_map(|(at, _)| {
                // `my_hf_…` is a name of its own.
                if text[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
                    return None;
                }
                let after = &text[at + prefix.len()..];
                let length = rest.length(after)?;
                Some(FoundSecret { range: at..at + prefix.len() + length, what })
            })
        })
        .min_by_key(|secret| secret.range.start)
}

impl Rest {
    /// The length of the rest of a token at the start of a text, if it is one.
    fn length(&self, text: &str) -> Option<usize> {
        let run = |also: &[char]| {
            text.find(|character: char| !character.is_ascii_alphanumeric() && !also.contains(&character)).unwrap_or(text.len())
        };
        match self {
            Self::Plain(least) => {
                let length = run(&[]);
                let has = |kind: fn(char) -> bool| text[..length].contains(kind);
                let mixed = has(|c| c.is_ascii_uppercase()) && has(|c| c.is_ascii_lowercase()) && has(|c| c.is_ascii_digit());
                (length >= *least || length >= 10 && mixed).then_some(length)
            }
            Self::Parts(least) => {
                let length = run(&['-', '_']);
                text[..length].split(['-', '_']).any(|part| part.len() >= *least).then_some(length)
            }
            Self::Capitals(count) => {
                let length = run(&['_']);
                let all = text[..length].chars().all(|character| character.is_ascii_uppercase() || character.is_ascii_digit());
                (length == *count && all).then_some(length)
            }
        }
    }
}

fn private_key(text: &str) -> Option<FoundSecret> {
    let at = text.match_indices(PRIVATE_KEY).map(|(at, _)| at).find(|at| text[*at..].lines().next().is_some_and(is_private))?;
    let end = text[at + 1..].find("-----END ").map_or(text.len(), |end| at + 1 + end);
    Some(FoundSecret { range: at..end, what: "a private key" })
}

fn is_private(line: &str) -> bool {
    line.contains("PRIVATE KEY")
}

/// The password in `scheme://user:password@host`. A shell variable or a reference in its place is none.
fn url_password(text: &str) -> Option<FoundSecret> {
    text.match_indices(URL).find_map(|(at, _)| {
        if !text[..at].ends_with(|character: char| character.is_ascii_alphanumeric()) {
            return None;
        }
        let start = at + URL.len();
        let authority = &text[start..];
        let length = authority.find(|character: char| character.is_whitespace() || "/?#\"'`<>\\".contains(character));
        let (login, _) = authority[..length.unwrap_or(authority.len())].rsplit_once('@')?;
        let (user, password) = login.split_once(':')?;
        let literal = !password.is_empty() && !password.starts_with('$') && !password.chars().all(|c| matches!(c, '*' | 'x' | '.' | '…'));
        let from = start + user.len() + 1;
        (literal && password != REDACTED).then(|| FoundSecret { range: from..from + password.len(), what: "a password in a URL" })
    })
}

/// The value of `?token=…`.
fn query(text: &str) -> Option<FoundSecret> {
    text.match_indices(PARAMETER).find_map(|(at, _)| {
        let (name, value) = text[at + 1..].split_once('=')?;
        if !QUERY.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return None;
        }
        let length = value.find(|c: char| !c.is_ascii_alphanumeric() && !"-._~%+/=".contains(c)).unwrap_or(value.len());
        let from = at + 2 + name.len();
        (length >= SHORTEST_QUERY).then(|| FoundSecret { range: from..from + length, what: "a token in a URL" })
    })
}

/// The token of `Authorization: Bearer …`.
fn bearer(text: &str) -> Option<FoundSecret> {
    text.match_indices(BEARER).find_map(|(at, word)| {
        let from = at + word.len();
        let rest = &text[from..];
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"-._~+/=".contains(c)).unwrap_or(rest.len());
        (length >= 16).then(|| FoundSecret { range: from..from + length, what: "a bearer token" })
    })
}

/// What is written in place of a secret.
pub const REDACTED: &str = "[redacted]";

/// The text with everything that looks like a secret replaced by as many `*`, so that places in it stay as they are.
pub fn masked(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut end = 0;
    for FoundSecret { range, .. } in find_all(text) {
        masked.push_str(&text[end..range.start]);
        masked.extend(text[range.clone()].chars().map(|character| if character == '\n' { '\n' } else { '*' }));
        end = range.end;
    }
    masked.push_str(&text[end..]);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_recognized_by_the_words_of_their_names() {
        for name in [
            "HF_TOKEN",
            "hf_token",
            "HFTOKEN",
            "API_KEY",
            "APIKEYS",
            "MYSQL_PASSWORD2",
            "CLIENT_SECRET_FILE",
            "AWS_SECRET_ACCESS_KEY",
            "MYSQL_PASSWD",
            "DB_PASS",
            "GITHUB_PAT",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "CREDENTIAL",
            "MY_ApiKey",
            "openAIKey",
            "HFToken",
            "SSH_PASSPHRASE",
            "MYSQL_PWD",
            "USE_KEY",
            "PASS",
            "TOKENS",
            "API_KEYS",
            "DOCKER_AUTH",
            "accessKey",
            "ACCESSKEY",
            "DB-PASS",
            "db.password",
            "REGISTRY_PASS_1",
            "TOKEN_2",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "HOME",
            "TOKENIZER_DIR",
            "TOKENIZERS_PARALLELISM",
            "KEYBOARD",
            "KEYMAP",
            "MONKEY_HOME",
            "DATA",
            "SECRETARY",
            "PATH",
            "PASSAGE",
            "COMPASS",
            "BYPASS",
            "PASS_RATE",
            "PATTERN",
            "PWD",
            "OLDPWD",
            "AUTHOR",
            "GIT_AUTHOR_NAME",
            "MAX_TOKENS",
            "MAX_NEW_TOKENS",
            "TOKENS_PER_BATCH",
            "SSH_AUTH_SOCK",
            "PUBLIC_KEY",
            "TURKEY",
            "SPATIAL",
            "CREDITS",
            "",
            "_",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn keys_of_a_file_are_secret_only_without_another_meaning() {
        for key in ["password", "api_key", "hf_token", "db_password", "aws_secret_access_key", "apiKey"] {
            assert!(is_secret_key(key), "{key}");
        }
        for key in ["key", "pad_token", "token", "keys", "tokens", "max_tokens", "text_key", "pass"] {
            assert!(!is_secret_key(key), "{key}");
        }
    }

    #[test]
    fn secrets_are_recognized_by_their_form() {
        for (text, secret) in [
            ("x hf_abcdefghijklmnopqrstuvwxyz0123456789 y", "hf_abcdefghijklmnopqrstuvwxyz0123456789"),
            ("hf_AbCdEf12345", "hf_AbCdEf12345"),
            ("k=sk-1234567890abcdef", "sk-1234567890abcdef"),
            ("sk-proj-abc_DEF-1234567890abcdef", "sk-proj-abc_DEF-1234567890abcdef"),
            ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"),
            ("github_pat_11ABCDEFG0abcdefghijkl_mn", "github_pat_11ABCDEFG0abcdefghijkl_mn"),
            ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
            ("postgres://me:hunter2@db/x", "hunter2"),
            ("https://x/y?a=1&token=abcdefgh12", "abcdefgh12"),
            ("Authorization: Bearer abcdefghijklmnop1234", "abcdefghijklmnop1234"),
        ] {
            let found = find(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(&text[found.range], secret, "{text}");
        }
        for text in [
            "hf_model",
            "hf_whisper_small_v3_turbo",
            "models/hf_wav2vec2base",
            "sk-learn-pipeline-config-version-2",
            "a_hf_abcdefghijklmnopqrstuvwx",
            "https://example.org/a:b@c",
            "git@github.com:org/repo.git",
            "ssh://git@host/repo",
            "postgres://me:$PGPASSWORD@db",
            "postgres://me:[redacted]@db",
            "https://x/?token=abc",
            "user:pass@host",
            "AKIAIOSFODNN7EXAMPLE_AND_MORE",
            "${out}/x?a=b",
        ] {
            assert_eq!(find(text), None, "{text}");
        }
        assert_eq!(masked("a hf_AbCdEf12345 ü postgres://a:bcd@e"), "a ************** ü postgres://a:***@e");
    }
}
