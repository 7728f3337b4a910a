//! Tensor names: maps between the three checkpoint layouts (Hub, transformers 5, Mistral) with one table.
//!
//! A row of the table names a module. A tensor name is a module name followed by `.weight`, `.bias` or an adapter suffix. `{}` stands for
//! the layer number. The names used in this crate are those of the Hub checkpoint.

mod realtime;

/// Names of one module in each layout.
struct Part {
    /// Hub checkpoint, and the field path in our structs.
    hub: &'static str,
    /// Module path in transformers 5, and in files it saves without the original format.
    newer: &'static str,
    /// Mistral's `consolidated.safetensors`; empty if the file has no such tensor.
    mistral: &'static [&'static str],
    /// Whether Mistral stores the rows as interleaved RoPE pairs.
    interleaved: bool,
}

const fn part(hub: &'static str, newer: &'static str, mistral: &'static [&'static str]) -> Part {
    Part { hub, newer, mistral, interleaved: false }
}

const fn interleaved(part: Part) -> Part {
    Part { interleaved: true, ..part }
}

#[rustfmt::skip]
const PARTS: &[Part] = &[
    part("audio_tower.conv1", "model.audio_tower.conv1", &["mm_whisper_embeddings.whisper_encoder.conv_layers.0"]),
    part("audio_tower.conv2", "model.audio_tower.conv2", &["mm_whisper_embeddings.whisper_encoder.conv_layers.1"]),
    part("audio_tower.embed_positions", "model.audio_tower.embed_positions", &[]),
    part("audio_tower.layers.{}.self_attn.q_proj", "model.audio_tower.layers.{}.self_attn.q_proj", &["mm_whisper_embeddings.whisper_encoder.transformer.layers.{}.attention.wq"]),
    part("audio_tower.layers.{}.self_attn.k_proj", "model.audio_tower.layers.{}.self_attn.k_proj", &["mm_whisper_embeddings.whisper_encoder.transformer.layers.{}.attention.wk"]),
    part("audio_tower.layers.{}.self_attn.v_proj", "model.audio_tower.layers.{}.self_attn.v_proj", &["mm_whisper_embeddings.whisper_encoder.transformer.layers.{}.attention.wv"]),
    part("audio_tower.layers.{}.self_attn.out_proj", "model.audio_tower.layers.{}.self_attn.out_proj", &["mm_whisper_embeddings.whisper_encoder.transformer.layers.{}.attention.wo"]),
    part("audio_tower.layers.{}.self_attn_layer_norm", "model.audio_tower.layers.{}.self_attn_layer_norm", &["mm_whisper_embeddings.whisper_encoder.transformer.layers.{}.attention_norm"]),
    part("audio_tower.layers.{}.fc1", "model.audio_tower.layers.{}.fc1", &["mm_whisper_embeddings.whisper_encoder.transformer.layers.{}.feed_forward.w1"]),
    part("audio_tower.layers.{}.fc2", "model.audio_tower.layers.{}.fc2", &["mm_whisper_embeddings.whisper_encoder.transformer.layers.{}.feed_forward.w2"]),
    part("audio_tower.layers.{}.final_layer_norm", "model.audio_tower.layers.{}.final_layer_norm", &["mm_whisper_embeddings.whisper_encoder.transformer.layers.{}.ffn_norm"]),
    part("audio_tower.layer_norm", "model.audio_tower.layer_norm", &["mm_whisper_embeddings.whisper_encoder.transformer.norm"]),
    part("multi_modal_projector.linear_1", "model.multi_modal_projector.linear_1", &["mm_whisper_embeddings.audio_language_projection.0"]),
    part("multi_modal_projector.linear_2", "model.multi_modal_projector.linear_2", &["mm_whisper_embeddings.audio_language_projection.2"]),
    part("language_model.model.embed_tokens", "model.language_model.embed_tokens", &["mm_whisper_embeddings.tok_embeddings", "tok_embeddings"]),
    interleaved(part("language_model.model.layers.{}.self_attn.q_proj", "model.language_model.layers.{}.self_attn.q_proj", &["layers.{}.attention.wq"])),
    interleaved(part("language_model.model.layers.{}.self_attn.k_proj", "model.language_model.layers.{}.self_attn.k_proj", &["layers.{}.attention.wk"])),
    part("language_model.model.layers.{}.self_attn.v_proj", "model.language_model.layers.{}.self_attn.v_proj", &["layers.{}.attention.wv"]),
    part("language_model.model.layers.{}.self_attn.o_proj", "model.language_model.layers.{}.self_attn.o_proj", &["layers.{}.attention.wo"]),
    part("language_model.model.layers.{}.mlp.gate_proj", "model.language_model.layers.{}.mlp.gate_proj", &["layers.{}.feed_forward.w1"]),
    part("language_model.model.layers.{}.mlp.down_proj", "model.language_model.layers.{}.mlp.down_proj", &["layers.{}.feed_forward.w2"]),
    part("language_model.model.layers.{}.mlp.up_proj", "model.language_model.layers.{}.mlp.up_proj", &["layers.{}.feed_forward.w3"]),
    part("language_model.model.layers.{}.input_layernorm", "model.language_model.layers.{}.input_layernorm", &["layers.{}.attention_norm"]),
    part("language_model.model.layers.{}.post_attention_layernorm", "model.language_model.layers.{}.post_attention_layernorm", &["layers.{}.ffn_norm"]),
    part("language_model.model.norm", "model.language_model.norm", &["norm"]),
    part("language_model.lm_head", "lm_head", &["output"]),
];

/// A tensor name found in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTensor {
    /// Hub name.
    pub hub: String,
    /// Whether its rows are interleaved RoPE pairs and must be reordered.
    pub interleaved: bool,
}

/// Looks up a stored name in any layout; `None` for an unknown name.
pub fn known(stored: &str) -> Option<KnownTensor> {
    PARTS.iter().chain(realtime::PARTS).find_map(|part| {
        let found = |pattern: &str| renamed(stored, pattern, part.hub);
        let direct = found(part.hub).or_else(|| found(part.newer)).map(|hub| KnownTensor { hub, interleaved: false });
        let mistral = || part.mistral.iter().find_map(|pattern| found(pattern));
        direct.or_else(|| mistral().map(|hub| KnownTensor { hub, interleaved: part.interleaved }))
    })
}

/// The transformers 5 name of a tensor, by Hub name.
pub fn newer(hub: &str) -> Option<String> {
    PARTS.iter().find_map(|part| renamed(hub, part.hub, part.newer))
}

/// Mistral's name of a tensor, by Hub name, and whether its rows are interleaved there.
pub fn mistral(hub: &str) -> Option<(String, bool)> {
    PARTS.iter().find_map(|part| Some((renamed(hub, part.hub, part.mistral.first()?)?, part.interleaved)))
}

/// Replaces the prefix pattern `from` of `name` by `to`, keeping the layer number and the suffix. `None` if the pattern does not match.
fn renamed(name: &str, from: &str, to: &str) -> Option<String> {
    let (before, after) = from.split_once("{}").unwrap_or((from, ""));
    let rest = name.strip_prefix(before)?;
    let (number, rest) = match from.len() > before.len() {
        true => rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count()),
        false => ("", rest),
    };
    let ending = rest.strip_prefix(after).filter(|ending| ending.starts_with('.'))?;
    let numbered = from.len() == before.len() || !number.is_empty();
    numbered.then(|| format!("{}{ending}", to.replacen("{}", number, 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_leads_to_the_same_name() {
        let (hub, newer_name, mistral_name) = (
            "language_model.model.layers.17.self_attn.q_proj.weight",
            "model.language_model.layers.17.self_attn.q_proj.weight",
            "layers.17.attention.wq.weight",
        );
        let is = |name: &str, interleaved| assert_eq!(known(name), Some(KnownTensor { hub: hub.to_owned(), interleaved }), "{name}");
        is(hub, false);
        is(newer_name, false);
        is(mistral_name, true);
        assert_eq!(newer(hub).as_deref(), Some(newer_name));
        assert_eq!(mistral(hub), Some((mistral_name.to_owned(), true)));
        let head = known("lm_head.weight").map(|known| known.hub);
        assert_eq!(head.as_deref(), Some("language_model.lm_head.weight"));
        assert_eq!(known("tok_embeddings.weight"), known("mm_whisper_embeddings.tok_embeddings.weight"));
        let adapter = known("model.audio_tower.layers.3.fc1.lora_A.weight").map(|known| known.hub);
        assert_eq!(adapter.as_deref(), Some("audio_tower.layers.3.fc1.lora_A.weight"));
    }

    #[test]
    fn a_name_of_no_layout_is_not_guessed() {
        for name in
            ["", "norm", "normal.weight", "layers..attention.wq.weight", "layers.x.attention.wq.weight", "layers.1.attention.wqx.weight"]
        {
            assert_eq!(known(name), None, "{name}");
        }
    }

    #[test]
    fn no_two_parts_share_a_name() {
        let mut seen = std::collections::BTreeSet::new();
        for part in PARTS {
            for name in [part.hub, part.newer].into_iter().chain(part.mistral.iter().copied()) {
                assert!(seen.insert(name), "{name}");
                assert_eq!(name.matches("{}").count(), part.hub.matches("{}").count(), "{name}");
            }
        }
    }
}
