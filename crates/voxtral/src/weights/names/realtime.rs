//! Tensor names specific to Voxtral Realtime; the decoder layers share the table of Mini and Small.
//!
//! Its encoder uses RoPE too, so the rows of query and key weights, and the query bias, are interleaved in Mistral's file.

use super::{Part, interleaved, part};

#[rustfmt::skip]
pub(super) const PARTS: &[Part] = &[
    part("audio_tower.embedder.conv1", "model.audio_tower.embedder.conv1", &["mm_streams_embeddings.embedding_module.whisper_encoder.conv_layers.0.conv"]),
    part("audio_tower.embedder.conv2", "model.audio_tower.embedder.conv2", &["mm_streams_embeddings.embedding_module.whisper_encoder.conv_layers.1.conv"]),
    interleaved(part("audio_tower.layers.{}.self_attn.q_proj", "model.audio_tower.layers.{}.self_attn.q_proj", &["mm_streams_embeddings.embedding_module.whisper_encoder.transformer.layers.{}.attention.wq"])),
    interleaved(part("audio_tower.layers.{}.self_attn.k_proj", "model.audio_tower.layers.{}.self_attn.k_proj", &["mm_streams_embeddings.embedding_module.whisper_encoder.transformer.layers.{}.attention.wk"])),
    part("audio_tower.layers.{}.self_attn.v_proj", "model.audio_tower.layers.{}.self_attn.v_proj", &["mm_streams_embeddings.embedding_module.whisper_encoder.transformer.layers.{}.attention.wv"]),
    part("audio_tower.layers.{}.self_attn.o_proj", "model.audio_tower.layers.{}.self_attn.o_proj", &["mm_streams_embeddings.embedding_module.whisper_encoder.transformer.layers.{}.attention.wo"]),
    part("audio_tower.layers.{}.self_attn_layer_norm", "model.audio_tower.layers.{}.self_attn_layer_norm", &["mm_streams_embeddings.embedding_module.whisper_encoder.transformer.layers.{}.attention_norm"]),
    part("audio_tower.layers.{}.final_layer_norm", "model.audio_tower.layers.{}.final_layer_norm", &["mm_streams_embeddings.embedding_module.whisper_encoder.transformer.layers.{}.ffn_norm"]),
    part("audio_tower.layers.{}.mlp.gate_proj", "model.audio_tower.layers.{}.mlp.gate_proj", &["mm_streams_embeddings.embedding_module.whisper_encoder.transformer.layers.{}.feed_forward.w1"]),
    part("audio_tower.layers.{}.mlp.down_proj", "model.audio_tower.layers.{}.mlp.down_proj", &["mm_streams_embeddings.embedding_module.whisper_encoder.transformer.layers.{}.feed_forward.w2"]),
    part("audio_tower.layers.{}.mlp.up_proj", "model.audio_tower.layers.{}.mlp.up_proj", &["mm_streams_embeddings.embedding_module.whisper_encoder.transformer.layers.{}.feed_forward.w3"]),
    part("audio_tower.norm", "model.audio_tower.norm", &["mm_streams_embeddings.embedding_module.whisper_encoder.transformer.norm"]),
    part("multi_modal_projector.linear_1", "model.multi_modal_projector.linear_1", &["mm_streams_embeddings.embedding_module.audio_language_projection.0"]),
    part("multi_modal_projector.linear_2", "model.multi_modal_projector.linear_2", &["mm_streams_embeddings.embedding_module.audio_language_projection.2"]),
    part("language_model.model.embed_tokens", "model.language_model.embed_tokens", &["mm_streams_embeddings.embedding_module.tok_embeddings"]),
    part("language_model.model.layers.{}.ada_rms_norm.linear1", "model.language_model.layers.{}.ada_rms_norm.linear1", &["layers.{}.ada_rms_norm_t_cond.0"]),
    part("language_model.model.layers.{}.ada_rms_norm.linear2", "model.language_model.layers.{}.ada_rms_norm.linear2", &["layers.{}.ada_rms_norm_t_cond.2"]),
];

#[cfg(test)]
mod tests {
    use crate::weights::names::{KnownTensor, known};

    #[test]
    fn every_layout_leads_to_the_same_name() {
        let hub = "audio_tower.layers.3.self_attn.q_proj.bias";
        let is = |name: &str, interleaved| assert_eq!(known(name), Some(KnownTensor { hub: hub.to_owned(), interleaved }), "{name}");
        is(hub, false);
        is("model.audio_tower.layers.3.self_attn.q_proj.bias", false);
        is("mm_streams_embeddings.embedding_module.whisper_encoder.transformer.layers.3.attention.wq.bias", true);
        // The encoder of Mini and Small has no RoPE.
        is("mm_whisper_embeddings.whisper_encoder.transformer.layers.3.attention.wq.bias", false);
        let scale = known("layers.7.ada_rms_norm_t_cond.2.weight").map(|known| known.hub);
        assert_eq!(scale.as_deref(), Some("language_model.model.layers.7.ada_rms_norm.linear2.weight"));
    }
}
