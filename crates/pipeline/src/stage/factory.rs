//! Stage kinds without settings: they create stages from the settings of a pipeline file or of a job.

use super::{AnyStage, Port, Stage};
use crate::diagnostics::toml_schema::SchemaShape;
use crate::diagnostics::{Diagnostic, toml_schema};
use crate::error::{Error, Result};
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;
use std::marker::PhantomData;
use toml::Spanned;
use toml::de::DeTable;

/// A stage kind without settings: creates stages from settings.
pub trait StageFactory: Sync {
    /// See [`Stage::KIND`].
    fn kind(&self) -> &'static str;
    /// See [`Stage::ABOUT`].
    fn about(&self) -> &'static str;
    /// See [`Stage::VERSION`].
    fn version(&self) -> u32;
    /// See [`Stage::INPUTS`].
    fn ports(&self) -> &'static [Port];
    /// The JSON Schema of the `with` table; adds the definitions it refers to to the generator.
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema;
    /// Parses a `with` table and reports every mistake with its span. Values are validated by [`Stage::check`].
    fn parse(&self, with: Spanned<DeTable<'_>>) -> Result<Box<dyn AnyStage>, Vec<Diagnostic>>;
    /// Recreates a stage from [`AnyStage::settings`].
    fn restore(&self, settings: Value) -> Result<Box<dyn AnyStage>>;
}

/// The [`StageFactory`] of a stage kind.
pub struct FactoryOf<S>(PhantomData<fn() -> S>);

impl<S: Stage> FactoryOf<S> {
    /// The factory, for a registry of stage kinds.
    pub const NEW: Self = Self(PhantomData);
}

impl<S: Stage> StageFactory for FactoryOf<S> {
    fn kind(&self) -> &'static str {
        S::KIND
    }
    fn about(&self) -> &'static str {
        S::ABOUT
    }
    fn version(&self) -> u32 {
        S::VERSION
    }
    fn ports(&self) -> &'static [Port] {
        S::INPUTS
    }
    fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<S>()
    }
    fn restore(&self, settings: Value) -> Result<Box<dyn AnyStage>> {
        let stage: S =
            serde_json::from_value(settings).map_err(|error| Error::from(error).context(format!("settings of `{}`", S::KIND)))?;
        Ok(Box::new(stage))
    }
    fn parse(&self, mut with: Spanned<DeTable<'_>>) -> Result<Box<dyn AnyStage>, Vec<Diagnostic>> {
        let span = with.span();
        let shape = toml_schema::of::<S>();
        let found = SchemaShape::new(&shape.0, &shape.1).check(&mut with, "with");
        if !found.is_empty() {
            // Do not deserialize: removed values would be reported as missing.
            return Err(found);
        }
        match S::deserialize(toml::de::Deserializer::from(with)) {
            Ok(stage) => Ok(Box::new(stage)),
            Err(error) => Err(vec![toml_schema::unreadable(&error, span)]),
        }
    }
}
