//! Keys of `config.json` and `params.json` whose value is fixed in this implementation. Any other value would change the computation, so it
//! is refused by name.

use serde_json::Value;

/// Keys of a section with the values that are computed here. A missing key or `null` is fine.
pub type FixedKeys = &'static [(&'static str, &'static [Fixed])];

/// A value that is computed here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fixed {
    /// A word, such as the name of an activation function.
    Word(&'static str),
    /// A switch.
    Switch(bool),
    /// A number.
    Number(f64),
}

use Fixed::{Number, Switch, Word};

/// Activation functions with the arithmetic of the exact GELU.
pub const GELU: &[Fixed] = &[Word("gelu")];
/// Names of SiLU in transformers.
pub const SILU: &[Fixed] = &[Word("silu"), Word("swish")];
/// A switch that must be off.
pub const OFF: &[Fixed] = &[Switch(false)];
/// A key that must not be set.
pub const UNSET: &[Fixed] = &[];

/// Keys of other decoder architectures that change the result and that no Voxtral model sets.
pub const OTHER_DECODERS: FixedKeys = &[
    ("attention_bias", OFF),
    ("mlp_bias", OFF),
    ("attention_chunk_size", UNSET),
    ("attention_multiplier", &[Number(1.0)]),
    ("attn_logit_softcapping", UNSET),
    ("clip_qkv", UNSET),
    ("embedding_multiplier", &[Number(1.0)]),
    ("final_logit_softcapping", UNSET),
    ("logit_scale", &[Number(1.0)]),
    ("logits_scaling", &[Number(1.0)]),
    ("no_rope_layers", UNSET),
    ("num_experts", UNSET),
    ("num_local_experts", UNSET),
    ("partial_rotary_factor", &[Number(1.0)]),
    ("qk_layernorm", OFF),
    ("query_pre_attn_scalar", UNSET),
    ("residual_multiplier", &[Number(1.0)]),
    ("use_qk_norm", OFF),
];

/// Keys of `params.json` of other architectures.
pub const OTHER_PARAMS: FixedKeys =
    &[("moe", UNSET), ("quantization", UNSET), ("rope_scaling", UNSET), ("yarn", UNSET), ("llama_4_scaling", UNSET), ("qk_norm", OFF)];

impl Fixed {
    fn is(self, value: &Value) -> bool {
        match self {
            Word(word) => value.as_str() == Some(word),
            Switch(switch) => value.as_bool() == Some(switch),
            Number(number) => value.as_f64() == Some(number),
        }
    }

    fn shown(self) -> String {
        match self {
            Word(word) => format!("`{word}`"),
            Switch(switch) => format!("`{switch}`"),
            Number(number) => format!("`{number}`"),
        }
    }
}

/// An error if a key has another value than those computed here. `section` is the path of the section, such as `text_config`; empty for the
/// whole file.
pub fn check(config: &Value, section: &str, keys: FixedKeys) -> Result<(), String> {
    let values = if section.is_empty() { Some(config) } else { section.split('.').try_fold(config, |value, key| value.get(key)) };
    let Some(values) = values else { return Ok(()) };
    for (key, accepted) in keys {
        let Some(value) = values.get(*key).filter(|value| !value.is_null()) else { continue };
        if accepted.iter().any(|fixed| fixed.is(value)) {
            continue;
        }
        let name = if section.is_empty() { (*key).to_owned() } else { format!("{section}.{key}") };
        let found = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        return Err(match accepted.iter().map(|fixed| fixed.shown()).collect::<Vec<_>>().as_slice() {
            [] => format!("`{name}` is `{found}`, but Voxtral does not use it: the result would not be this model's"),
            accepted => format!("`{name}` is `{found}`; only {} is supported", accepted.join(" or ")),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn other_values_are_named_with_their_section() {
        let keys: FixedKeys = &[("hidden_act", SILU), ("sliding_window", UNSET), ("mlp_bias", OFF), ("logit_scale", &[Number(1.0)])];
        let is = |section: Value| check(&json!({ "text_config": section }), "text_config", keys);
        for fine in [json!({}), json!({ "hidden_act": "swish", "sliding_window": null, "mlp_bias": false, "logit_scale": 1 })] {
            assert_eq!(is(fine), Ok(()));
        }
        for (wrong, key) in [
            (json!({ "hidden_act": "gelu" }), "`text_config.hidden_act` is `gelu`; only `silu` or `swish`"),
            (json!({ "sliding_window": 4096 }), "`text_config.sliding_window` is `4096`"),
            (json!({ "mlp_bias": true }), "`text_config.mlp_bias` is `true`"),
            (json!({ "mlp_bias": "false" }), "`text_config.mlp_bias` is `false`"),
            (json!({ "logit_scale": 0.5 }), "`text_config.logit_scale` is `0.5`"),
        ] {
            assert!(is(wrong.clone()).unwrap_err().contains(key), "{wrong}");
        }
    }
}
