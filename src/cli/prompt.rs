//! Retry prompt on a terminal: after a failure, retry with other settings or stop.

use pipeline::scheduler::{RetryAnswer, RetryQuestion};
use pipeline::stage::SettingOverrides;
use serde_json::Value;
use std::io::{self, BufRead, IsTerminal, Write};

/// Whether standard input and standard error are terminals.
pub(super) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks on the terminal. End of input means stop.
pub(super) fn ask(question: &RetryQuestion) -> RetryAnswer {
    let mut out = io::stderr().lock();
    let mut line = String::new();
    if write!(out, "{}", text(question)).and_then(|()| out.flush()).is_err() {
        return RetryAnswer::Leave;
    }
    match io::stdin().lock().read_line(&mut line) {
        Ok(1..) => answer(line.trim(), question.offers.len()),
        _ => RetryAnswer::Leave,
    }
}

fn text(question: &RetryQuestion) -> String {
    let mut text = String::new();
    match question.complaint {
        Some(complaint) => text += &format!("  {complaint}\n"),
        None => {
            for (place, offer) in question.offers.iter().enumerate() {
                let with = offer.settings.as_ref().map_or_else(String::new, |settings| format!(" with {settings}"));
                let start = if offer.keeps_checkpoint { "continues from its checkpoint" } else { "starts over" };
                text += &format!("  {}  retry{with}: {} ({start})\n", place + 1, offer.about);
            }
            text += &format!("  {}  stop; finished results and checkpoints are kept\n", question.offers.len() + 1);
        }
    }
    text + &format!("choose 1 to {}, or enter settings such as learning_rate = 1e-5: ", question.offers.len() + 1)
}

fn answer(line: &str, offers: usize) -> RetryAnswer {
    match line.parse::<usize>() {
        Ok(number) if number == offers + 1 => return RetryAnswer::Leave,
        Ok(number) => return RetryAnswer::Offer(number.wrapping_sub(1)),
        Err(_) if line.is_empty() => return RetryAnswer::Offer(usize::MAX),
        Err(_) => (),
    }
    let mut changes = SettingOverrides::new();
    match toml::from_str::<Value>(&format!("settings = {{ {line} }}")) {
        Ok(mut settings) => flatten("", settings["settings"].take(), &mut changes),
        // An unquoted string: base=models/tiny.
        Err(_) => {
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            changes.insert(key.trim().to_owned(), Value::from(value.trim()));
        }
    }
    RetryAnswer::Settings(changes)
}

/// Flattens nested tables to dotted paths, so that settings that are not mentioned keep their values.
fn flatten(path: &str, value: Value, changes: &mut SettingOverrides) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key } else { format!("{path}.{key}") };
                flatten(&path, value, changes);
            }
        }
        value => _ = changes.insert(path.to_owned(), value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_written_is_understood() {
        let settings = |line: &str| match answer(line, 2) {
            RetryAnswer::Settings(changes) => serde_json::to_value(changes).unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(settings("learning_rate=1e-5"), json!({ "learning_rate": 1e-5 }));
        assert_eq!(settings("lora.r = 4, batch_size = 1"), json!({ "lora.r": 4, "batch_size": 1 }));
        assert_eq!(settings("base = models/tiny"), json!({ "base": "models/tiny" }));
        assert_eq!(settings("nonsense"), json!({ "nonsense": "" }));
        assert!(matches!(answer("1", 2), RetryAnswer::Offer(0)));
        assert!(matches!(answer("3", 2), RetryAnswer::Leave));
        assert!(matches!(answer("0", 2), RetryAnswer::Offer(usize::MAX)));
        assert!(matches!(answer("", 2), RetryAnswer::Offer(usize::MAX)));
    }
}
