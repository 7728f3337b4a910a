//! Transcription prompt: the tokens the language model reads before the transcript.
//!
//! `<s> [INST] [BEGIN_AUDIO] [AUDIO]… [/INST] lang:xx [TRANSCRIBE]`, followed by the transcript and `</s>`. The audio embeddings replace
//! the embeddings of the `[AUDIO]` tokens. Without a language, `lang:xx` is omitted and the model detects it.

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Token that starts every sequence.
pub const BOS: &str = "<s>";
/// Token that ends a transcript.
pub const EOS: &str = "</s>";
/// Padding token; never attended to.
pub const PAD: &str = "<pad>";
/// Placeholder token for 80 ms of audio.
pub const AUDIO: &str = "[AUDIO]";

/// Prompt that asks for a transcript of `audio_tokens` × 80 ms of audio, optionally in a given language.
pub fn transcription(tokenizer: &Tokenizer, language: Option<&str>, audio_tokens: usize) -> Result<Vec<u32>> {
    if audio_tokens == 0 {
        return Err(Error::new("there is no audio to transcribe").hint("exclude recordings without samples"));
    }
    let mut ids = vec![tokenizer.special(BOS)?, tokenizer.special("[INST]")?, tokenizer.special("[BEGIN_AUDIO]")?];
    ids.resize(ids.len() + audio_tokens, tokenizer.special(AUDIO)?);
    ids.push(tokenizer.special("[/INST]")?);
    if let Some(language) = language {
        check_language(language)?;
        // Encode as one string: `lang:nl` has other tokens than `lang`, `:` and `nl`.
        ids.extend(tokenizer.encode(&format!("lang:{language}")));
    }
    ids.push(tokenizer.special("[TRANSCRIBE]")?);
    Ok(ids)
}

/// Checks that this is an ISO 639-1 language code, such as `en`.
pub fn check_language(language: &str) -> Result<()> {
    if LANGUAGES.split(' ').any(|code| code == language) && !language.is_empty() {
        return Ok(());
    }
    let hint = match language {
        "auto" => "omit the language; the model then detects it".into(),
        _ => match language.get(..2).map(str::to_lowercase) {
            Some(code) if LANGUAGES.split(' ').any(|known| known == code) && !language[2..].starts_with(|c: char| c.is_alphabetic()) => {
                format!("use `{code}`")
            }
            _ => "use two lowercase letters, such as `en` or `fr`, or omit the language".into(),
        },
    };
    Err(Error::new(format!("`{language}` is not an ISO 639-1 language code")).hint(hint))
}

/// The ISO 639-1 codes.
const LANGUAGES: &str = "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo es \
    et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv \
    kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa \
    sc sd se sg sh si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_two_letters_in_order() {
        let codes: Vec<_> = LANGUAGES.split(' ').collect();
        assert!(codes.iter().all(|code| code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_lowercase())), "{codes:?}");
        assert!(codes.is_sorted_by(|a, b| a < b));
        for code in "bg cs da de el en es et fi fr hr hu it lt lv mt nl pl pt ro ru sk sl sv uk hi ar ja ko zh".split(' ') {
            check_language(code).unwrap();
        }
    }

    #[test]
    fn other_languages_are_rejected_with_a_hint() {
        for (language, hint) in [
            ("auto", "omit the language; the model"),
            ("EN", "use `en`"),
            ("pt-BR", "use `pt`"),
            ("xx", "use two lowercase letters"),
            ("eng", "use two lowercase letters"),
            ("", "use two lowercase letters"),
            ("日本", "use two lowercase letters"),
            ("en fr", "use `en`"),
        ] {
            let error = check_language(language).unwrap_err();
            assert!(error.message.contains(&format!("`{language}`")), "{error}");
            assert!(error.hint.as_deref().unwrap().starts_with(hint), "{language}: {:?}", error.hint);
        }
    }
}
